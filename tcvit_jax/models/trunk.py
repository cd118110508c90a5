"""The blocks of a Vision Transformer, with token reduction between their layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import unknown
from tcvit_jax.models.checks import check_drop_rate, check_multiple, check_positive
from tcvit_jax.models.cost import Shape
from tcvit_jax.models.layers import Attention, DropPath, LayerScale, Mlp, layer_norm
from tcvit_jax.ops.activations import ACTIVATIONS
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens, Trace


@dataclass(frozen=True)
class BlockSpec:
    """What one block does, all static.

    Attributes:
        num_removed: how many patch tokens leave between attention and MLP; 0 asks for no signal and no plan.
        uses_size_bias: whether any token may stand for several, so that keys are biased by `log(size)`.
        has_padding: whether any token may only fill the width, so that nobody attends to it.
        keep: the part of the attention map's entries to keep.
        num_queries: how many of the first tokens anybody reads after this block; None for all. The others are neither
            computed nor returned.
    """

    num_removed: int = 0
    uses_size_bias: bool = False
    has_padding: bool = False
    attention_keep: float = 1.0
    num_queries: int | None = None

    @property
    def has_plan(self) -> bool:
        """Whether there is a plan: not where nobody reads what it would leave."""
        return self.num_removed > 0 and self.num_queries is None


class Block(nn.Module):
    """Attention, token reduction, MLP: `Tokens` in, fewer `Tokens` out."""

    num_heads: int
    mlp_hidden: int
    qkv_bias: bool
    qk_norm: bool
    init_values: float | None
    skip_lam: float
    norm_eps: float
    act_layer: str
    drop_rate: float
    drop_path_rate: float
    reducer: Reducer | None
    dtype: str

    def setup(self) -> None:
        """The two residual branches."""
        self.norm1 = layer_norm(self.norm_eps, None, self.dtype)
        self.attn = Attention(
            self.num_heads, self.qkv_bias, self.qk_norm, self.norm_eps, self.drop_rate, self.dtype
        )  # fmt: skip
        self.norm2 = layer_norm(self.norm_eps, None, self.dtype)
        self.mlp = Mlp(self.mlp_hidden, self.act_layer, self.drop_rate, self.dtype)
        if self.init_values:
            self.ls1, self.ls2 = LayerScale(self.init_values), LayerScale(self.init_values)
        self.drop_path1, self.drop_path2 = DropPath(self.drop_path_rate), DropPath(self.drop_path_rate)

    def __call__(self, tokens: Tokens, spec: BlockSpec, train: bool, rows: Rows | None = None) -> Tokens:
        """One block; `rows` of the global batch, None for all of it."""
        tokens, signals = self.attend(tokens, spec, train, rows)
        if self.reducer and spec.has_plan:
            before = tokens
            tokens, plan = self.reducer.reduce(before, signals, before.origin.shape[1] - spec.num_removed)
            # For who asks with `mutable=["intermediates"]` (`measure.diagnosis`); nothing otherwise.
            self.sow("intermediates", "reduction", (before, signals, plan))
        return self.feed_forward(tokens, train, rows)

    def attend(self, tokens: Tokens, spec: BlockSpec, train: bool, rows: Rows | None = None) -> tuple[Tokens, Signals]:
        """The attention branch, and the signals that the reducer reads of it."""
        signals = self.reducer.signals if self.reducer and spec.has_plan else ()
        key_bias = (
            size_bias(tokens, spec.uses_size_bias, spec.has_padding)
            if spec.uses_size_bias or spec.has_padding
            else None
        )
        y, found = self.attn(
            self.norm1(tokens.x),
            key_bias,
            signals,
            tokens.class_tokens,
            spec.attention_keep,
            spec.num_queries,
            spec.has_padding,
            train,
            rows,
        )
        y = self.ls1(y) if self.init_values else y
        return tokens.with_x(tokens.x[:, : spec.num_queries] + self.drop_path1(y, train, rows) / self.skip_lam), found

    def feed_forward(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> Tokens:
        """The MLP branch; the block ends here."""
        y = self.mlp(self.norm2(tokens.x), train, rows)
        y = self.ls2(y) if self.init_values else y
        return replace(tokens, x=tokens.x + self.drop_path2(y, train, rows) / self.skip_lam, block=tokens.block + 1)


def size_bias(tokens: Tokens, uses_size_bias: bool, has_padding: bool) -> Float[Array, "B T"]:
    """What is added to every score of a key, `[B, T]`: `log(size)` where sizes count, -inf where it only fills.

    A prefix token stands for itself alone.
    """
    bias = jnp.log(jnp.where(tokens.size > 0, tokens.size, 1)) if uses_size_bias else jnp.zeros_like(tokens.size)
    if has_padding:
        bias = jnp.where(tokens.size > 0, bias, -jnp.inf)
    return jnp.pad(bias, ((0, 0), (tokens.prefix, 0)))


class Trunk(nn.Module):
    """All blocks, from embedded tokens to those that are left after the last one.

    `active_reducer` is the model's reducer, or None where its schedule removes nothing.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    qkv_bias: bool
    qk_norm: bool
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
        """What the cost of the blocks depends on."""
        return Shape(
            patches=self.grid[0] * self.grid[1],
            prefix=self.prefix,
            width=self.embed_dim,
            heads=self.num_heads,
            mlp_hidden=int(self.embed_dim * self.mlp_ratio),
        )

    def check(self) -> None:
        """Raise an `InputError` for sizes that do not fit each other."""
        check_positive(
            embed_dim=self.embed_dim, depth=self.depth, num_heads=self.num_heads, mlp_ratio=self.mlp_ratio,
            skip_lam=self.skip_lam,
        )  # fmt: skip
        check_drop_rate(proj_drop_rate=self.proj_drop_rate, drop_path_rate=self.drop_path_rate)
        check_multiple("embed_dim", self.embed_dim, "num_heads", self.num_heads)
        if self.act_layer not in ACTIVATIONS:
            raise unknown("act_layer", self.act_layer, ACTIVATIONS)

    def setup(self) -> None:
        """The blocks, under timm's names."""
        self.blocks = [
            Block(
                num_heads=self.num_heads,
                mlp_hidden=self.shape.mlp_hidden,
                qkv_bias=self.qkv_bias,
                qk_norm=self.qk_norm,
                init_values=self.init_values,
                skip_lam=self.skip_lam,
                norm_eps=self.norm_eps,
                act_layer=self.act_layer,
                drop_rate=self.proj_drop_rate,
                drop_path_rate=self.drop_path_rate * index / max(self.depth - 1, 1),
                reducer=self.active_reducer,
                dtype=self.dtype,
            )
            for index in range(self.depth)
        ]

    def block_specs(self, prefix_only: bool) -> tuple[BlockSpec, ...]:
        """Return what every block does; with `prefix_only` the last one computes prefix tokens and nothing else."""
        reducer = self.active_reducer
        removed = self.removed or (0,) * self.depth
        specs: list[BlockSpec] = []
        for index, remove in enumerate(removed):
            # As soon as tokens have left, those that are left may stand for several, or for none.
            after = reducer if any(removed[:index]) else None
            specs.append(
                BlockSpec(
                    remove,
                    uses_size_bias=after is not None and after.proportional_attention,
                    has_padding=after is not None and after.has_padding,
                    attention_keep=1.0 if reducer is None else reducer.attention_keep,
                    num_queries=self.prefix if prefix_only and index == self.depth - 1 else None,
                )
            )
        return tuple(specs)

    def start(self, x: Float[Array, "B T D"]) -> Tokens:
        """Return embedded tokens `x [B, T, D]` with what the reducer prepares once."""
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
        prefix_only: bool = False,
        restore_weights: bool = False,
    ) -> tuple[Tokens, Trace]:
        """Run all blocks.

        Args:
            tokens: of `start`.
            train: whether dropout and drop-path are on.
            rows: of the global batch; None where the batch is all of it.
            prefix_only: nobody reads the patch tokens after the last block, which then computes neither them nor a
                plan.
            restore_weights: carry what restores shared tokens.

        Returns:
            The tokens after the last block, and the trace of all of them.
        """
        if self.active_reducer is not None and self.active_reducer.is_soft and restore_weights:
            tokens = tokens.with_restore_weights()
        history = Trace()
        for block, spec in zip(self.blocks, self.block_specs(prefix_only), strict=True):
            tokens = block(tokens, spec, train, rows)
            history = history.record(tokens)
        return tokens, history
