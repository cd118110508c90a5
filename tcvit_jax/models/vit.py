"""The Vision Transformer (Dosovitskiy et al., 2021), as timm builds it, with token reduction between its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models import tables
from tcvit_jax.models.cost import Cost, blocks_cost, skipped_macs
from tcvit_jax.models.embedding import PatchEmbedding
from tcvit_jax.models.heads import PooledHead
from tcvit_jax.models.parts import Embedding, Head, HeadOutputs
from tcvit_jax.models.trunk import Block, BlockSpec, Trunk
from tcvit_jax.ops import plans
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens, Trace

_Part = TypeVar("_Part")


class ModelParts(NamedTuple):
    """The three parts of a model, unbound: they answer questions, and hold no parameters."""

    embedding: Embedding
    trunk: Trunk
    head: Head


class ViT(nn.Module):
    """A Vision Transformer; make one with `create_model`, which knows the names and checks the values.

    An architecture derived from this one chooses its own `EMBEDDING_CLASS` or `HEAD_CLASS`, and adds the fields that they read.

    Attributes carry timm's names; without classes (`num_classes=0`) the pooled features `[B, D]` stand for the logits.
    `removed` is the resolved schedule: patch tokens that leave each block. `dtype` is that of the computation;
    parameters, softmax, norm statistics and rankings stay float32. On a TPU a map averaged over heads, which TC-ViT
    ranks by, has entries rounded as the values are.
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
    qkv_bias: bool = True
    class_token: bool = True
    distilled: bool = False
    global_pool: str = "token"
    fc_norm: bool | None = None
    init_values: float | None = None
    reg_tokens: int = 0
    no_embed_class: bool = False
    pre_norm: bool = False
    qk_norm: bool = False
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

    # The classes of the exchangeable parts.
    EMBEDDING_CLASS: ClassVar[type[Embedding]] = PatchEmbedding
    HEAD_CLASS: ClassVar[type[Head]] = PooledHead
    # Values that an architecture derived from this one leaves no choice in.
    FIXED_FIELDS: ClassVar[dict[str, Any]] = {}
    # A row for every parameter: its role, weight decay, layer, mesh axis and tensors in files.
    PARAMETERS: ClassVar[tables.ParameterTable] = tables.VIT

    @property
    def parts(self) -> ModelParts:
        """The three parts, unbound."""
        return ModelParts(self._part(self.EMBEDDING_CLASS), self._part(Trunk), self._part(self.HEAD_CLASS))

    def _part(self, kind: type[_Part]) -> _Part:
        """Return an unbound part, whose fields are the attributes of this model by the same names."""
        module: Any = kind
        values = {field.name: getattr(self, field.name) for field in fields(module) if field.name not in _OF_MODULES}
        return module(**values, parent=None)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in height and width."""
        return self._part(self.EMBEDDING_CLASS).grid

    @property
    def prefix(self) -> int:
        """Protected tokens in front of the patches."""
        return self._part(self.EMBEDDING_CLASS).prefix

    @property
    def class_tokens(self) -> int:
        """The first of them, which stand for the image: class and distillation token."""
        return self._part(self.EMBEDDING_CLASS).class_tokens

    @property
    def active_reducer(self) -> Reducer | None:
        """The reducer, or None where the schedule removes nothing."""
        return self.reducer if any(self.removed) else None

    @property
    def reads_prefix_only(self) -> bool:
        """Whether the head reads nothing of the patch tokens, so that the last block need not compute them."""
        return self._part(self.HEAD_CLASS).reads_prefix_only

    @property
    def has_patch_logits(self) -> bool:
        """Whether it has a head on every patch token."""
        return self._part(self.HEAD_CLASS).has_patch_logits

    def cost(self, removed: tuple[int, ...] | None = None) -> Cost:
        """Multiply-adds of one image, for this schedule or another one; zeros give the dense model's."""
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
        """Raise what a layer would otherwise trip over, an `InputError` in the words of the attribute that is wrong."""
        for key, value in self.FIXED_FIELDS.items():
            if getattr(self, key) != value:
                raise InputError(f"{key}={getattr(self, key)!r} is not for {self.variant}: it has {key}={value!r}")
        # Sizes of the embedding come first: the other parts derive theirs from it.
        self._part(self.EMBEDDING_CLASS).check()
        self._part(Trunk).check()
        self._part(self.HEAD_CLASS).check()
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("dtype", self.dtype, ("float32", "bfloat16"))

    def setup(self) -> None:
        """The three parts, whose sub-modules and parameters are this module's own, under the names `convert` knows."""
        self.embedding, self.trunk, self.classifiers = self.parts
        parts: Any = (self.embedding, self.trunk, self.classifiers)
        for part in parts:
            nn.share_scope(self, part)

    def block_specs(self, prefix_only: bool) -> tuple[BlockSpec, ...]:
        """Return what every block does; with `prefix_only` the last one computes prefix tokens and nothing else."""
        return self._part(Trunk).block_specs(prefix_only)

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of a bound model."""
        return self.trunk.blocks

    def start(
        self,
        images: Float[Array | np.ndarray, "*shape"],
        train: bool = False,
        rows: Rows | None = None,
        mix_mask: Bool[Array, " N0"] | None = None,
    ) -> Tokens:
        """Return the embedded tokens of images, with what the reducer prepares once; arguments as for `outputs`."""
        expected = (*self.img_size, self.in_chans)
        if images.shape[1:] != expected:
            raise InputError(
                f"images have shape {tuple(images.shape)}: {self.variant} takes [B, {', '.join(map(str, expected))}]"
            )
        return self.trunk.start(self.embedding(jnp.asarray(images), train, rows, mix_mask))

    def logits(self, tokens: Tokens, train: bool) -> Float[Array, "B classes"]:
        """From the tokens after the last block, or its prefix alone, to `[B, num_classes]`."""
        return self.classifiers(self.classifiers.normalize(tokens), train).logits

    def outputs(
        self,
        images: Float[Array | np.ndarray, "*shape"],
        *,
        train: bool = False,
        rows: Rows | None = None,
        patches: bool = False,
        mix_mask: Bool[Array, " N0"] | None = None,
    ) -> tuple[HeadOutputs, Tokens]:
        """Everything that a training loss reads.

        Args:
            images: `[B, H, W, C]` float.
            train: as for logits.
            rows: as for logits.
            patches: whether anybody reads the tokens; where not, and where the head does not either, the last block
                computes prefix tokens alone.
            mix_mask: `[N0]` bool, the patches that come of a row's partner (0 and 1, 2 and 3) instead of the row itself:
                MixToken (Jiang et al., 2021). None for none.

        Returns:
            The outputs of the head, and the `Tokens` that it reads, after the last norm; with `patches` they carry what
            restores them.
        """
        alone = self.classifiers.reads_prefix_only and not patches
        tokens = self.start(images, train, rows, mix_mask)
        tokens, _ = self.trunk(tokens, train, rows, prefix_only=alone, restore_weights=patches)
        tokens = self.classifiers.normalize(tokens)
        return self.classifiers(tokens, train, rows), tokens

    def __call__(
        self,
        images: Float[Array | np.ndarray, "*shape"],
        *,
        train: bool = False,
        trace: bool = False,
        rows: Rows | None = None,
    ) -> Float[Array, "B classes"] | tuple[Float[Array, "B classes"], Trace]:
        """Logits of normalized images.

        Where the head reads prefix tokens alone and no trace is asked for, the last block computes nothing else: its
        patch tokens would not change the logits. (With dropout, a trace changes which numbers are drawn there.)

        Args:
            images: `[B, H, W, C]` float.
            train: turns dropout and drop-path on; `apply` then needs `rngs={"dropout": key}`.
            trace: also return what every block kept.
            rows: which rows of the global batch these are, for what dropout draws; None where they are all of it.

        Returns:
            Logits `[B, num_classes]` float32, the mean of both heads' for a distilled model; or `(logits, Trace)`.

        Raises:
            InputError: images of another shape than the model's.
        """
        alone = self.classifiers.reads_prefix_only and not trace
        tokens, history = self.trunk(self.start(images, train, rows), train, rows, prefix_only=alone)
        logits = self.classifiers(self.classifiers.normalize(tokens), train, rows).logits
        return (logits, history) if trace else logits

    def features(
        self,
        images: Float[Array | np.ndarray, "*shape"],
        *,
        restore: bool = False,
        train: bool = False,
        trace: bool = False,
        rows: Rows | None = None,
    ) -> Float[Array, "B ... D"] | tuple[Float[Array, "B ... D"], Trace]:
        """The tokens that the head reads, after the last norm (timm's `forward_features`).

        Args:
            images: `[B, H, W, C]` float.
            restore: the patch tokens back on their grid instead, each patch with the features of the token that holds
                it, or the most of it; zero where it was lost. Patches that a method splits among several tokens (soft
                fusion) get their weighted mean.
            train, trace, rows: as for logits.

        Returns:
            `[B, T, D]`, prefix tokens first, in the compute dtype; with `restore`, `[B, height, width, D]` in patches.
            With `trace`, `(features, Trace)`.

        Raises:
            InputError: images of another shape than the model's.
        """
        tokens, history = self.trunk(self.start(images, train, rows), train, rows, restore_weights=restore)
        x = self.classifiers.normalize(tokens).x
        if restore:
            x = plans.restore(x[:, self.prefix :], tokens.slots, tokens.restore_weights)
            x = x.reshape(x.shape[0], *self.grid, x.shape[-1])
        return (x, history) if trace else x


# What every Flax module has beside its own fields.
_OF_MODULES = ("parent", "name")
