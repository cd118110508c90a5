"""Vision Transformer (Dosovitskiy et al., 2021) as in timm, with token reduction inside its blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from tcvit_jax.errors import as_integer, out_of_range, unknown
from tcvit_jax.models import tables
from tcvit_jax.models.cost import Cost, blocks_cost, skipped_macs
from tcvit_jax.models.embedding import PatchEmbedding
from tcvit_jax.models.heads import PooledHead
from tcvit_jax.models.inputs import check_images, check_no_more_blocks
from tcvit_jax.models.parts import Embedding, Head, HeadOutputs
from tcvit_jax.models.trunk import Block, BlockSpec, Trunk
from tcvit_jax.ops import plans
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens, Trace

_Part = TypeVar("_Part")

# Features of one block, or of several.
Features: TypeAlias = Float[Array, "B ... D"] | tuple[Float[Array, "B ... D"], ...]


class ModelParts(NamedTuple):
    """The three unbound parts of a model, which give access to its properties without parameters."""

    embedding: Embedding
    trunk: Trunk
    head: Head


class ViT(nn.Module):
    """Vision Transformer, created by `create_model`, which looks up the name and checks the fields.

    Fields have timm's names. Without classes (`num_classes=0`) the pooled features `[B, D]` take the place of the
    logits. A derived architecture sets its own `EMBEDDING_CLASS` or `HEAD_CLASS` and adds the fields that they read.

    Attributes:
        variant: Name of the model, with or without a tag.
        mlp_ratio: Width of the MLP relative to `embed_dim`, in (0, 100].
        mlp_hidden: Width of the MLP, that of the product in a gated one; 0 for `embed_dim * mlp_ratio`, rounded down.
        mlp_layer: `"mlp"`, or `"swiglu"` or `"swiglu_packed"` for a gated MLP. These two differ only in timm's names.
        key_bias: Whether keys have a bias, if queries and values have one.
        proj_bias: Whether the output layer of the attention has a bias.
        mlp_bias: Whether the layers of the MLP have biases.
        qkv_fused: Whether timm stores the projections to queries, keys and values as one tensor.
        distilled: Whether there is a distillation token.
        dist_head: Whether the distillation token has a classifier of its own.
        global_pool: What the classifier reads: `"token"` for the class token, `"avg"` for the mean of the patch tokens,
            `"token_avg"` for both, concatenated, or `"map"` for attention pooling of the patch tokens.
        fc_norm: Whether the final norm follows the pooling instead of preceding it; None for `global_pool="avg"`.
        final_norm: Whether there is a final norm.
        pos_embed: `"learn"` for learned position embeddings, or `"none"`.
        no_embed_class: Whether prefix tokens have no position embedding.
        no_embed_reg: Whether registers have no position embedding.
        allow_remainder: Whether `img_size` may exceed a multiple of `patch_size`. The model then ignores the remaining
            rows at the bottom and columns at the right.
        rope_type: Rotary positions: `"dinov3"`, `"cat"` for those of EVA-02, or an empty string for none.
        rope_temperature: Temperature of the frequencies of rotary positions, in [1, 1e9].
        ref_feat_shape: Side of the reference grid of the rotary positions of EVA-02.
        scale_attn_inner: Whether a norm precedes the output layer of the attention.
        scale_mlp: Whether a norm precedes the last layer of the MLP.
        init_values: Initial factor of LayerScale, in [0, 10]; 0 or None for none.
        norm_eps: Epsilon of the norms, in [1e-12, 1].
        skip_lam: Divisor of the residual branches, in [0.01, 100].
        drop_rate: Dropout rate before the classifier. All drop rates are in [0, 1).
        reducer: Token reduction method, or None.
        removed: Resolved schedule: number of patch tokens to remove in each block.
        dtype: Computation dtype. Parameters, softmax, norm statistics and rankings stay float32. On a TPU the map
            averaged over heads, from which TC-ViT ranks tokens, is rounded to the dtype of the values.
        EMBEDDING_CLASS: Class of the embedding.
        HEAD_CLASS: Class of the head.
        FIXED_FIELDS: Fields that must keep these values in a derived architecture.
        PARAMETERS: Parameter table.
    """

    variant: str
    img_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    mlp_hidden: int = 0
    mlp_layer: str = "mlp"
    qkv_bias: bool = True
    key_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    qkv_fused: bool = True
    class_token: bool = True
    distilled: bool = False
    dist_head: bool = True
    global_pool: str = "token"
    fc_norm: bool | None = None
    final_norm: bool = True
    init_values: float | None = None
    reg_tokens: int = 0
    pos_embed: str = "learn"
    no_embed_class: bool = False
    no_embed_reg: bool = False
    allow_remainder: bool = False
    rope_type: str = ""
    rope_temperature: float = 10000.0
    ref_feat_shape: int = 16
    pre_norm: bool = False
    qk_norm: bool = False
    scale_attn_inner: bool = False
    scale_mlp: bool = False
    norm_eps: float = 1e-6
    act_layer: str = "gelu"
    skip_lam: float = 1.0
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    reducer: Reducer | None = None
    removed: tuple[int, ...] = ()
    dtype: str = "float32"

    EMBEDDING_CLASS: ClassVar[type[Embedding]] = PatchEmbedding
    HEAD_CLASS: ClassVar[type[Head]] = PooledHead
    FIXED_FIELDS: ClassVar[dict[str, Any]] = {}
    PARAMETERS: ClassVar[tables.ParameterTable] = tables.VIT

    @property
    def parts(self) -> ModelParts:
        """The three unbound parts."""
        return ModelParts(
            self._make_part(self.EMBEDDING_CLASS), self._make_part(Trunk), self._make_part(self.HEAD_CLASS)
        )

    def _make_part(self, part_class: type[_Part]) -> _Part:
        """Return an unbound part, with the attributes of this model as its fields."""
        module: Any = part_class
        names = [field.name for field in fields(module) if field.name not in _MODULE_FIELDS]
        return module(**{name: getattr(self, name) for name in names}, parent=None)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches along height and width."""
        return self._make_part(self.EMBEDDING_CLASS).grid

    @property
    def prefix(self) -> int:
        """Number of prefix tokens in front of the patches; reducers never remove them."""
        return self._make_part(self.EMBEDDING_CLASS).prefix

    @property
    def class_tokens(self) -> int:
        """Number of leading prefix tokens that represent the image: class and distillation token."""
        return self._make_part(self.EMBEDDING_CLASS).class_tokens

    @property
    def active_reducer(self) -> Reducer | None:
        """The reducer, or None if the schedule removes no token."""
        return self.reducer if any(self.removed) else None

    @property
    def reads_prefix_only(self) -> bool:
        """Whether the head reads no patch token, so that the last block can skip them."""
        return self._make_part(self.HEAD_CLASS).reads_prefix_only

    @property
    def has_patch_logits(self) -> bool:
        """Whether the head returns logits for every patch token."""
        return self._make_part(self.HEAD_CLASS).has_patch_logits

    def cost(self, removed: tuple[int, ...] | None = None) -> Cost:
        """Return the multiply-adds for one image.

        Args:
            removed: Number of patch tokens to remove in each block; None for the schedule of this model, zeros for the
                dense model.
        """
        embedding, trunk, head = self.parts
        removed = removed or self.removed or (0,) * self.depth
        reducer = self.reducer if any(removed) else None
        prepare, blocks = blocks_cost(trunk.shape, removed, reducer)
        return Cost(
            embed=embedding.macs,
            prepare=prepare,
            blocks=blocks,
            head=head.macs(blocks[-1].tokens_out),
            skipped=skipped_macs(trunk.shape, removed, reducer) if head.reads_prefix_only else 0,
        )

    def check(self) -> None:
        """Check the fields of this model and its parts.

        Raises:
            InputError: A field is out of range, or fields do not fit each other. The message names the field.
        """
        for key, value in self.FIXED_FIELDS.items():
            if getattr(self, key) != value:
                raise out_of_range(key, getattr(self, key), f"{value!r} for {self.variant}")
        # The embedding comes first, because the other parts depend on its sizes.
        self._make_part(self.EMBEDDING_CLASS).check()
        self._make_part(Trunk).check()
        self._make_part(self.HEAD_CLASS).check()
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype", self.dtype, ("float32", "bfloat16"))

    def check_images(self, images: object) -> None:
        """Check that images are what the model takes. Under `jit` they are traced arrays.

        Args:
            images: The images, `[B, H, W, C]` float.

        Raises:
            InputError: The images are not a float array of the shape that the model expects.
        """
        check_images(images, (*self.img_size, self.in_chans), self.variant)

    def setup(self) -> None:
        """Create the three parts in the scope of this module, so that parameters have timm's names."""
        self.embedding, self.trunk, self.classifiers = self.parts
        parts: Any = (self.embedding, self.trunk, self.classifiers)
        for part in parts:
            nn.share_scope(self, part)

    def block_specs(self, prefix_only: bool) -> tuple[BlockSpec, ...]:
        """Return the static configuration of every block.

        Args:
            prefix_only: Whether the last block computes only prefix tokens.
        """
        return self._make_part(Trunk).block_specs(prefix_only)

    @property
    def blocks(self) -> Sequence[Block]:
        """Blocks of a bound model."""
        return self.trunk.blocks

    def start(
        self,
        images: Array | np.ndarray,
        train: bool = False,
        rows: Rows | None = None,
        mix_mask: Bool[Array, " N0"] | None = None,
    ) -> Tokens:
        """Embed images and prepare the state of the reducer.

        Args:
            images: `[B, H, W, C]` float, normalized.
            train: Whether dropout is on.
            rows: Rows of the global batch, None if `images` is the full batch.
            mix_mask: `[N0]` bool, the patches to take from each row's partner, as in `outputs`.

        Raises:
            InputError: The images are not a float array of the shape that the model expects, or the variables are those
                of a model with more blocks.
        """
        self.check_images(images)
        check_no_more_blocks(self.variables.get("params", {}), self.depth, self.variant)
        return self.trunk.start(self.embedding(jnp.asarray(images), train, rows, mix_mask))

    def logits(self, tokens: Tokens, train: bool) -> Float[Array, "B classes"]:
        """Return the logits of the tokens after the last block.

        Args:
            tokens: Tokens after the last block, or only their prefix if `reads_prefix_only`.
            train: Whether dropout is on.

        Returns:
            `[B, num_classes]` float32.
        """
        return self.classifiers(self.classifiers.normalize(tokens), train).logits

    def outputs(
        self,
        images: Array | np.ndarray,
        *,
        train: bool = False,
        rows: Rows | None = None,
        patches: bool = False,
        mix_mask: Bool[Array, " N0"] | None = None,
    ) -> tuple[HeadOutputs, Tokens]:
        """Return all outputs that a training loss may need.

        Args:
            images: `[B, H, W, C]` float, normalized.
            train: Whether dropout and drop path are on; `apply` then requires `rngs={"dropout": key}`.
            rows: Rows of the global batch, for random numbers; None if `images` is the full batch.
            patches: Whether to compute all patch tokens and the weights that restore them. If False and the head reads
                prefix tokens only, the last block computes only those.
            mix_mask: `[N0]` bool, the patches to take from each row's partner (0 and 1, 2 and 3) for MixToken (Jiang et
                al., 2021); None for none.

        Returns:
            The outputs of the head, and the `Tokens` after the final norm.

        Raises:
            InputError: The images are not a float array of the shape that the model expects.
        """
        prefix_only = self.classifiers.reads_prefix_only and not patches
        tokens = self.start(images, train, rows, mix_mask)
        (tokens,), _ = self.trunk(tokens, train, rows, prefix_only=prefix_only, restore_weights=patches)
        tokens = self.classifiers.normalize(tokens)
        return self.classifiers(tokens, train, rows), tokens

    def __call__(
        self,
        images: Array | np.ndarray,
        *,
        train: bool = False,
        trace: bool = False,
        rows: Rows | None = None,
    ) -> Float[Array, "B classes"] | tuple[Float[Array, "B classes"], Trace]:
        """Return the logits of normalized images.

        If the head reads prefix tokens only and `trace` is False, the last block skips its patch tokens, which do not
        change the logits. With dropout, `trace` changes the random numbers of that block.

        Args:
            images: `[B, H, W, C]` float, normalized.
            train: Whether dropout and drop path are on; `apply` then requires `rngs={"dropout": key}`.
            trace: Whether to also return the trace of all blocks.
            rows: Rows of the global batch, for random numbers; None if `images` is the full batch.

        Returns:
            Logits `[B, num_classes]` float32, averaged over both heads for a distilled model. With `trace`,
            `(logits, Trace)`.

        Raises:
            InputError: The images are not a float array of the shape that the model expects.
        """
        prefix_only = self.classifiers.reads_prefix_only and not trace
        (tokens,), history = self.trunk(self.start(images, train, rows), train, rows, prefix_only=prefix_only)
        logits = self.classifiers(self.classifiers.normalize(tokens), train, rows).logits
        return (logits, history) if trace else logits

    def features(
        self,
        images: Array | np.ndarray,
        *,
        blocks: int | Sequence[int] | None = None,
        restore: bool = False,
        norm: bool = False,
        train: bool = False,
        trace: bool = False,
        rows: Rows | None = None,
    ) -> Features | tuple[Features, Trace]:
        """Return the tokens after the final norm (timm's `forward_features`), or those after inner blocks.

        With `blocks`, this is timm's `forward_intermediates` with `intermediates_only=True` and `stop_early=True`: no
        block after the last one of `blocks` is computed.

        Args:
            images: `[B, H, W, C]` float, normalized.
            blocks: Indices of blocks, ascending, where negative ones count from the end; or a number `n`, for the last
                `n` blocks. None for the tokens after the final norm. Under `jit`, `blocks` must be static.
            restore: Whether to return the patch tokens on their original grid. Each patch gets the features of the
                token that holds most of it, or, if the survivors together receive at most half of its size, of the
                survivor that was most similar when it was removed. After soft fusion, which splits a patch among
                several tokens, it gets their weighted mean.
            norm: Whether to apply the final norm to the tokens of `blocks` too. A norm that follows the pooling is not
                applied.
            train: Whether dropout and drop path are on; `apply` then requires `rngs={"dropout": key}`.
            trace: Whether to also return the trace of all blocks that were computed.
            rows: Rows of the global batch, for random numbers; None if `images` is the full batch.

        Returns:
            `[B, T, D]` in the computation dtype, prefix tokens first; with `restore`, `[B, height, width, D]` on the
            patch grid. With `blocks`, a tuple of these, one for each block; `T` differs where tokens are removed. With
            `trace`, `(features, Trace)`.

        Raises:
            InputError: The images are not a float array of the shape that the model expects, or `blocks` are out of
                range or not ascending.
        """
        indices = None if blocks is None else block_indices(blocks, self.depth)
        tokens = self.start(images, train, rows)
        outputs, history = self.trunk(tokens, train, rows, blocks=indices, restore_weights=restore, stand_ins=restore)
        if norm or indices is None:
            outputs = tuple(self.classifiers.normalize(tokens) for tokens in outputs)
        features = tuple(self._restore(tokens) if restore else tokens.x for tokens in outputs)
        result = features[0] if indices is None else features
        return (result, history) if trace else result

    def _restore(self, tokens: Tokens) -> Float[Array, "B height width D"]:
        """Return the features of the patch tokens on their original grid."""
        rows = tokens.slots if tokens.stand_ins is None else tokens.stand_ins
        x = plans.restore(tokens.patches, rows, tokens.restore_weights)
        return x.reshape(x.shape[0], *self.grid, x.shape[-1])


def block_indices(blocks: int | Sequence[int] | np.ndarray, depth: int) -> tuple[int, ...]:
    """Return the indices of blocks that timm's argument `indices` stands for.

    Args:
        blocks: Indices, where negative ones count from the end; or a number `n`, for the last `n` blocks.
        depth: Number of blocks of the model.

    Returns:
        Indices in `0..depth - 1`, ascending.

    Raises:
        InputError: A value is not an integer or out of range, there is none, or they are not ascending. timm would sort
            them and drop duplicates.
    """
    if isinstance(blocks, str) or not isinstance(blocks, Sequence | np.ndarray) or np.ndim(blocks) == 0:
        count = as_integer("blocks", blocks)
        if not 1 <= count <= depth:
            raise out_of_range("blocks", count, f"in [1, {depth}], the number of blocks", "use (i,) for block i")
        return tuple(range(depth - count, depth))
    requested = tuple(as_integer("blocks", block) for block in blocks)
    if not requested or not all(-depth <= block < depth for block in requested):
        raise out_of_range("blocks", requested, f"one or more indices in [{-depth}, {depth - 1}]")
    indices = tuple(block % depth for block in requested)
    if any(first >= second for first, second in itertools.pairwise(indices)):
        raise out_of_range("blocks", requested, "ascending, each block once")
    return indices


# Fields of every Flax module.
_MODULE_FIELDS = ("parent", "name")
