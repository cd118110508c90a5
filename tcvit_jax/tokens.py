"""The pytrees that flow through every model: `Tokens`, the `Plan` that reduces them, the `Trace` of a forward pass.

Shape letters in this package: `B` batch size, `T` tokens including the prefix, `P` prefix tokens, `N` patch tokens,
`N0` patches of the embedded image, `K` kept tokens, `R` removed tokens, `S` surviving tokens, `D` width, `H` heads,
`d` head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """The tokens between two layers, with their sizes and the patches that they represent.

    Attributes:
        x: `[B, T, D]` features. The `prefix` protected tokens (class, distillation, registers) come first.
        size: `[B, N]` float32, the number of original patches that each patch token represents. It is 0 for padding:
            tokens that only fill the fixed width of a method that keeps fewer tokens in some images. Padding must be
            masked in attention and pooling.
        origin: `[B, N]` int32, the original patch index of each patch token, in ascending order. Tokens that were fused
            from removed tokens alone come last and have -1.
        slots: `[B, N0]` int32, the row among the patch tokens that holds each original patch, or -1 if it is lost.
        state: State of the reducer, prepared once per forward pass (such as a graph), indexed by original patches.
        restore_weights: `[B, N0, N]` float32, the weights that restore each original patch from the patch tokens. Only
            carried for a reducer that splits a removed token among several, where one slot per patch is not enough.
        stand_ins: `[B, N0]` int32, the row from which each original patch is restored, never -1: the token that holds
            it, or for a lost patch the survivor that was most similar when it was removed. Only carried to restore
            patches of a reducer that loses some.
        prefix: Number of prefix tokens; static.
        class_tokens: Number of leading prefix tokens that represent the image (class, distillation); static.
        block: Index of the current block; static.
        depth: Number of blocks; static.
    """

    x: Float[Array, "B T D"]
    size: Float32[Array, "B N"]
    origin: Int32[Array, "B N"]
    slots: Int32[Array, "B N0"]
    state: Any = None
    restore_weights: Float32[Array, "B N0 N"] | None = None
    stand_ins: Int32[Array, "B N0"] | None = None
    prefix: int = field(default=1, metadata={"static": True})
    class_tokens: int = field(default=1, metadata={"static": True})
    block: int = field(default=0, metadata={"static": True})
    depth: int = field(default=1, metadata={"static": True})

    @classmethod
    def start(cls, x: Float[Array, "B T D"], prefix: int, class_tokens: int | None = None, depth: int = 1) -> Tokens:
        """Return the tokens of an embedding: one token of size 1 for every patch.

        Args:
            x: `[B, T, D]` features, prefix tokens first.
            prefix: Number of prefix tokens.
            class_tokens: Number of prefix tokens that represent the image. None means one if there is a prefix.
            depth: Number of blocks of the model.
        """
        batch, patches = x.shape[0], x.shape[1] - prefix
        index = jnp.broadcast_to(jnp.arange(patches, dtype=jnp.int32), (batch, patches))
        classes = min(prefix, 1) if class_tokens is None else class_tokens
        size = jnp.ones((batch, patches), jnp.float32)
        return cls(x, size, index, index, prefix=prefix, class_tokens=classes, depth=depth)

    def with_restore_weights(self) -> Tokens:
        """Return the tokens with `restore_weights` initialized from `slots`."""
        return replace(self, restore_weights=jax.nn.one_hot(self.slots, self.origin.shape[1], dtype=jnp.float32))

    def with_stand_ins(self) -> Tokens:
        """Return the tokens with `stand_ins` initialized from `slots`."""
        return replace(self, stand_ins=self.slots)

    @property
    def patches(self) -> Float[Array, "B N D"]:
        """The patch tokens `[B, N, D]`, which a reducer may remove."""
        return self.x[:, self.prefix :]

    def with_x(self, x: Float[Array, "B T D"]) -> Tokens:
        """Return the tokens with other features."""
        return replace(self, x=x)

    def with_state(self, state: Any) -> Tokens:
        """Return the tokens with another reducer state."""
        return replace(self, state=state)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """The token reduction of one block: `y = self_weight * x[kept] + weight @ x[removed]`, or `y = features`.

    Indices are rows among the current patch tokens in ascending order, so that survivors stay in raster order. There
    are `S` survivors: the `K` kept tokens, followed by tokens that are fused from removed tokens alone.

    Attributes:
        kept: `[B, K]` int32, the rows of the kept tokens.
        removed: `[B, R]` int32, the rows of the removed tokens.
        weight: `[B, S, R]` float32, the weight of each removed token in each survivor. None if no survivor receives
            features of removed tokens.
        self_weight: `[B, K]` float32, the weight of each kept token in its own survivor. None means 1.
        share: `[B, S, R]` float32, the fraction of each removed token's size that passes to each survivor. None means
            0.
        target: `[B, R]` int32, the survivor that holds the patches of each removed token, or -1 if they are lost.
        valid: `[B, K]` bool, which kept tokens survive. The others are padding of size 0. None means all.
        features: `[B, S, D]`, the features of the survivors, for a fusion that is not linear. `weight` and
            `self_weight` are None then, and `share` and `target` as for any plan. None means the sum above.
    """

    kept: Int32[Array, "B K"]
    removed: Int32[Array, "B R"]
    weight: Float32[Array, "B S R"] | None
    self_weight: Float32[Array, "B K"] | None
    share: Float32[Array, "B S R"] | None
    target: Int32[Array, "B R"]
    valid: Bool[Array, "B K"] | None = None
    features: Float[Array, "B S D"] | None = None

    @property
    def survivors(self) -> int:
        """The number `S` of survivors: kept tokens, and fused tokens behind them."""
        matrix = self.share if self.weight is None else self.weight
        return self.kept.shape[1] if matrix is None else matrix.shape[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trace:
    """The composed plans of one forward pass, with one entry per block, including blocks that remove nothing.

    Attributes:
        kept: Per block `[B, K]` int32, the original patch index of each surviving token, in ascending order. Tokens
            that were fused from removed tokens alone come last and have -1. Tokens of size 0 are padding of a method
            that keeps fewer tokens in some images.
        slots: Per block `[B, N0]` int32, the row among the surviving tokens that holds each original patch, or -1.
        sizes: Per block `[B, K]` float32, the number of original patches that each surviving token represents.
        counts: Per block `[B]` int32, the number of surviving patch tokens of each image.
    """

    kept: tuple[Int32[Array, "B K"], ...] = ()
    slots: tuple[Int32[Array, "B N0"], ...] = ()
    sizes: tuple[Float32[Array, "B K"], ...] = ()
    counts: tuple[Int32[Array, " B"], ...] = ()

    def record(self, tokens: Tokens) -> Trace:
        """Return the trace with one more block, which leaves `tokens`."""
        counts = (tokens.size > 0).sum(-1, dtype=jnp.int32)
        return Trace(
            kept=(*self.kept, tokens.origin),
            slots=(*self.slots, tokens.slots),
            sizes=(*self.sizes, tokens.size),
            counts=(*self.counts, counts),
        )
