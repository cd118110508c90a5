"""Blocks of a Vision Transformer with token reduction between attention and MLP."""

from __future__ import annotations

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import check_range, out_of_range, unknown
from tcvit_jax.models.checks import check_count, check_drop_rate, check_multiple, check_norm_eps, check_positive
from tcvit_jax.models.cost import Shape
from tcvit_jax.models.layers import MLP_LAYERS, Attention, DropPath, LayerScale, Mlp, layer_norm, mlp_width
from tcvit_jax.ops.activations import ACTIVATIONS
from tcvit_jax.ops.attention import BLOCK_SIGNALS, Signals, row_norm, size_bias
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.rotary import ROPE_TYPES, Rotary, Rotation
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens, Trace


@dataclass(frozen=True)
class BlockSpec:
    """Static configuration of one block.

    Attributes:
        num_removed: Number of patch tokens to remove between attention and MLP; 0 computes no signals and no plan.
        uses_size_bias: Whether to add `log(size)` to the scores of each key, because tokens may be merged.
        has_padding: Whether some tokens may be padding, which is masked in attention.
        attention_keep: Fraction of the attention map's entries to keep.
        num_queries: Number of leading tokens to compute and return; None for all.
        is_reduced: Whether an earlier block removes tokens.
        max_fused: Largest number of tokens that earlier blocks have fused from removed tokens alone.
    """

    num_removed: int = 0
    uses_size_bias: bool = False
    has_padding: bool = False
    attention_keep: float = 1.0
    num_queries: int | None = None
    is_reduced: bool = False
    max_fused: int = 0

    @property
    def has_plan(self) -> bool:
        """Whether the block plans a reduction. It does not if only the leading tokens are computed."""
        return self.num_removed > 0 and self.num_queries is None


class Block(nn.Module):
    """Transformer block: attention, token reduction, MLP."""

    num_heads: int
    mlp_hidden: int
    mlp_layer: str
    qkv_bias: bool
    key_bias: bool
    proj_bias: bool
    mlp_bias: bool
    qk_norm: bool
    scale_attn_inner: bool
    scale_mlp: bool
    init_values: float | None
    skip_lam: float
    norm_eps: float
    act_layer: str
    drop_rate: float
    drop_path_rate: float
    rotary: Rotary | None
    reducer: Reducer | None
    dtype: str

    def setup(self) -> None:
        """Create both residual branches."""
        self.norm1 = layer_norm(self.norm_eps, None, self.dtype)
        self.attn = Attention(
            self.num_heads, self.qkv_bias, self.key_bias, self.proj_bias, self.qk_norm, self.scale_attn_inner,
            self.norm_eps, self.drop_rate, self.dtype,
        )  # fmt: skip
        self.norm2 = layer_norm(self.norm_eps, None, self.dtype)
        self.mlp = Mlp(
            self.mlp_hidden, self.mlp_layer, self.act_layer, self.mlp_bias, self.scale_mlp, self.norm_eps,
            self.drop_rate, self.dtype,
        )  # fmt: skip
        if self.init_values:
            self.ls1, self.ls2 = LayerScale(self.init_values), LayerScale(self.init_values)
        self.drop_path1, self.drop_path2 = DropPath(self.drop_path_rate), DropPath(self.drop_path_rate)

    def __call__(self, tokens: Tokens, spec: BlockSpec, train: bool, rows: Rows | None = None) -> Tokens:
        """Apply attention, token reduction and MLP.

        Args:
            tokens: Tokens that enter the block.
            spec: Static configuration of the block.
            train: Whether dropout and drop path are on.
            rows: Rows of the global batch, None if `tokens` holds the full batch.

        Returns:
            The remaining tokens.
        """
        tokens, signals, update = self._attend(tokens, spec, train, rows)
        if self.reducer and spec.has_plan:
            before = tokens
            tokens, plan = self.reducer.reduce(before, signals, before.origin.shape[1] - spec.num_removed)
            # `measure.diagnosis` collects this with `mutable=["intermediates"]`; otherwise it has no effect.
            self.sow("intermediates", "reduction", (before, signals, plan))
            if update is not None and self.reducer.removal == "drop" and not (train and self.drop_rate):
                # Dropping does not change the kept tokens, so that their MLP was computed for the signal.
                kept = take_rows(update[:, before.prefix :], plan.kept)
                return self._end(tokens, jnp.concatenate([update[:, : before.prefix], kept], axis=1), train, rows)
        return self.feed_forward(tokens, train, rows)

    def attend(self, tokens: Tokens, spec: BlockSpec, train: bool, rows: Rows | None = None) -> tuple[Tokens, Signals]:
        """Apply the attention branch.

        Args:
            tokens: Tokens that enter the block.
            spec: Static configuration of the block.
            train: Whether dropout and drop path are on.
            rows: Rows of the global batch, None if `tokens` holds the full batch.

        Returns:
            Tokens after the attention residual, and the signals for the reducer.
        """
        return self._attend(tokens, spec, train, rows)[:2]

    def _attend(
        self, tokens: Tokens, spec: BlockSpec, train: bool, rows: Rows | None
    ) -> tuple[Tokens, Signals, Float[Array, "B T D"] | None]:
        """Return the results of `attend`, and the update of the MLP branch without dropout if a signal needs it."""
        signals = self.reducer.signals if self.reducer and spec.has_plan else ()
        key_bias = (
            jnp.pad(size_bias(tokens.size, spec.uses_size_bias, spec.has_padding), ((0, 0), (tokens.prefix, 0)))
            if spec.uses_size_bias or spec.has_padding
            else None
        )
        y, attention_signals = self.attn(
            self.norm1(tokens.x),
            key_bias,
            tuple(name for name in signals if name not in BLOCK_SIGNALS),
            tokens.class_tokens,
            spec.attention_keep,
            spec.num_queries,
            spec.has_padding,
            self._rotation(tokens, spec),
            train,
            rows,
        )
        y = self.ls1(y) if self.init_values else y
        tokens = tokens.with_x(tokens.x[:, : spec.num_queries] + self.drop_path1(y, train, rows) / self.skip_lam)
        if "mlp_norm" not in signals:
            return tokens, attention_signals, None
        update = self._mlp_update(tokens, train=False)
        norm = row_norm(jax.lax.stop_gradient(update).astype(jnp.float32)) / self.skip_lam
        return tokens, replace(attention_signals, mlp_norm=norm), update

    def _rotation(self, tokens: Tokens, spec: BlockSpec) -> Rotation | None:
        """Return the rotation of the patch tokens by their positions; None for a model without rotary positions."""
        if self.rotary is None:
            return None
        if not spec.is_reduced:
            return self.rotary.rotation()
        return self.rotary.rotation_of(tokens.origin, tokens.slots, spec.max_fused)

    def feed_forward(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> Tokens:
        """Apply the MLP branch, the end of the block.

        Args:
            tokens: Remaining tokens.
            train: Whether dropout and drop path are on.
            rows: Rows of the global batch, None if `tokens` holds the full batch.
        """
        return self._end(tokens, self._mlp_update(tokens, train, rows), train, rows)

    def _mlp_update(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> Float[Array, "B T D"]:
        """Return the output of the MLP branch before its drop path."""
        y = self.mlp(self.norm2(tokens.x), train, rows)
        return self.ls2(y) if self.init_values else y

    def _end(self, tokens: Tokens, update: Float[Array, "B T D"], train: bool, rows: Rows | None) -> Tokens:
        """Return the tokens after the MLP residual, as they enter the next block."""
        x = tokens.x + self.drop_path2(update, train, rows) / self.skip_lam
        return replace(tokens, x=x, block=tokens.block + 1)


class Trunk(nn.Module):
    """All blocks of a Vision Transformer, from embedded tokens to the tokens after the last block.

    Fields are attributes of the model with the same names. `active_reducer` is the reducer of the model, or None if its
    schedule removes no token.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    mlp_hidden: int
    mlp_layer: str
    qkv_bias: bool
    key_bias: bool
    proj_bias: bool
    mlp_bias: bool
    qk_norm: bool
    scale_attn_inner: bool
    scale_mlp: bool
    rope_type: str
    rope_temperature: float
    ref_feat_shape: int
    init_values: float | None
    skip_lam: float
    norm_eps: float
    act_layer: str
    proj_drop_rate: float
    drop_path_rate: float
    grid: tuple[int, int]
    prefix: int
    class_tokens: int
    active_reducer: Reducer | None
    removed: tuple[int, ...]
    dtype: str

    @property
    def shape(self) -> Shape:
        """Dimensions that determine the cost of the blocks."""
        return Shape(
            patches=self.grid[0] * self.grid[1],
            prefix=self.prefix,
            width=self.embed_dim,
            heads=self.num_heads,
            mlp_hidden=mlp_width(self.embed_dim, self.mlp_ratio, self.mlp_hidden),
            mlp_matrices=2 if self.mlp_layer == "mlp" else 3,
        )

    @property
    def rotary(self) -> Rotary | None:
        """Rotary positions of the patches, or None."""
        if not self.rope_type:
            return None
        head_dim = self.embed_dim // self.num_heads
        return Rotary(self.rope_type, self.rope_temperature, self.grid, head_dim, self.ref_feat_shape)

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range, or fields do not fit each other.
        """
        check_positive(embed_dim=self.embed_dim, depth=self.depth, num_heads=self.num_heads)
        check_count(mlp_hidden=self.mlp_hidden)
        if self.mlp_layer not in MLP_LAYERS:
            raise unknown("mlp_layer", self.mlp_layer, MLP_LAYERS)
        check_range("mlp_ratio", self.mlp_ratio, 0, 100, excludes_low=True)
        if not self.shape.mlp_hidden:
            raise out_of_range("mlp_ratio", self.mlp_ratio, f">= 1 / embed_dim, which is {1 / self.embed_dim:.3g}")
        check_range("skip_lam", self.skip_lam, 0.01, 100)
        check_norm_eps(self.norm_eps)
        if self.init_values is not None:
            check_range("init_values", self.init_values, 0, 10, hint="None for no LayerScale")
        check_drop_rate(proj_drop_rate=self.proj_drop_rate, drop_path_rate=self.drop_path_rate)
        check_multiple("embed_dim", self.embed_dim, "num_heads", self.num_heads)
        if self.act_layer not in ACTIVATIONS:
            raise unknown("act_layer", self.act_layer, ACTIVATIONS)
        if self.rope_type:
            self._check_rotary()

    def _check_rotary(self) -> None:
        if self.rope_type not in ROPE_TYPES:
            raise unknown("rope_type", self.rope_type, ROPE_TYPES)
        check_range("rope_temperature", self.rope_temperature, 1, 1e9)
        check_positive(ref_feat_shape=self.ref_feat_shape)
        head_dim = self.embed_dim // self.num_heads
        if head_dim % 4:
            raise out_of_range(
                "embed_dim", self.embed_dim, f"a multiple of 4 * num_heads with rope_type={self.rope_type!r}"
            )

    def setup(self) -> None:
        """Create the blocks with timm's names."""
        self.blocks = [
            Block(
                num_heads=self.num_heads,
                mlp_hidden=self.shape.mlp_hidden,
                mlp_layer=self.mlp_layer,
                qkv_bias=self.qkv_bias,
                key_bias=self.key_bias,
                proj_bias=self.proj_bias,
                mlp_bias=self.mlp_bias,
                qk_norm=self.qk_norm,
                scale_attn_inner=self.scale_attn_inner,
                scale_mlp=self.scale_mlp,
                init_values=self.init_values,
                skip_lam=self.skip_lam,
                norm_eps=self.norm_eps,
                act_layer=self.act_layer,
                drop_rate=self.proj_drop_rate,
                drop_path_rate=self.drop_path_rate * index / max(self.depth - 1, 1),
                rotary=self.rotary,
                reducer=self.active_reducer,
                dtype=self.dtype,
            )
            for index in range(self.depth)
        ]

    def block_specs(self, prefix_only: bool) -> tuple[BlockSpec, ...]:
        """Return the static configuration of every block.

        Args:
            prefix_only: Whether the last block computes only prefix tokens.
        """
        reducer = self.active_reducer
        removed = self.removed or (0,) * self.depth
        specs: list[BlockSpec] = []
        for index, num_removed in enumerate(removed):
            # After the first reduction, tokens may be merged or padding.
            earlier_reducer = reducer if any(removed[:index]) else None
            specs.append(
                BlockSpec(
                    num_removed,
                    uses_size_bias=earlier_reducer is not None and earlier_reducer.proportional_attention,
                    has_padding=earlier_reducer is not None and earlier_reducer.has_padding,
                    attention_keep=1.0 if reducer is None else reducer.attention_keep,
                    num_queries=self.prefix if prefix_only and index == self.depth - 1 else None,
                    is_reduced=earlier_reducer is not None,
                    max_fused=earlier_reducer.extra_tokens * sum(map(bool, removed[:index])) if earlier_reducer else 0,
                )
            )
        return tuple(specs)

    def start(self, x: Float[Array, "B T D"]) -> Tokens:
        """Return embedded tokens `x [B, T, D]` with the prepared state of the reducer."""
        tokens = Tokens.start(x, self.prefix, self.class_tokens, self.depth)
        if self.active_reducer is None:
            return tokens
        return tokens.with_state(self.active_reducer.prepare(tokens, self.grid))

    def __call__(
        self,
        tokens: Tokens,
        train: bool,
        rows: Rows | None = None,
        *,
        blocks: tuple[int, ...] | None = None,
        prefix_only: bool = False,
        restore_weights: bool = False,
        stand_ins: bool = False,
    ) -> tuple[tuple[Tokens, ...], Trace]:
        """Run all blocks, or those up to the last one of `blocks`.

        Args:
            tokens: Output of `start`.
            train: Whether dropout and drop path are on.
            rows: Rows of the global batch, None if `tokens` holds the full batch.
            blocks: Indices of the blocks whose tokens to return, ascending; None for the last block.
            prefix_only: Whether the last block computes only prefix tokens, and no plan.
            restore_weights: Whether to track the weights that restore original patches after soft fusion.
            stand_ins: Whether to track the survivors that stand in for lost patches.

        Returns:
            The tokens after each of `blocks`, and the trace of all blocks that were run.
        """
        reducer = self.active_reducer
        if reducer is not None and reducer.is_soft and restore_weights:
            tokens = tokens.with_restore_weights()
        if reducer is not None and reducer.removal != "merge" and stand_ins:
            tokens = tokens.with_stand_ins()
        blocks = (self.depth - 1,) if blocks is None else blocks
        history, outputs = Trace(), list[Tokens]()
        for index, spec in enumerate(self.block_specs(prefix_only)[: blocks[-1] + 1]):
            tokens = self.blocks[index](tokens, spec, train, rows)
            history = history.record(tokens)
            if index in blocks:
                outputs.append(tokens)
        return tuple(outputs), history
