"""The pytrees that flow through every model: `Tokens`, the `Plan` that condenses them, the `Trace` of a forward pass.

Shape letters here and everywhere: `B` batch, `T` tokens with prefix, `P` prefix tokens, `N` patch tokens,
`N0` patches at the start, `K` kept, `R` removed, `D` width, `H` heads, `d` head width.
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
    """The tokens between two layers, and what must follow them when some are removed.

    Attributes:
        x: `[B, T, D]` features; the `prefix` protected tokens (class, distillation, registers) come first.
        size: `[B, N]` float32, how many original patches each patch token stands for; 0 for one that only fills the
            fixed width of a method that keeps fewer in some images, and that nobody may read.
        origin: `[B, N]` int32, the original patch index of each patch token, ascending; behind them -1 for each token
            that was fused of several and has no patch of its own.
        slots: `[B, N0]` int32, for every original patch the row (among the patch tokens) that holds it, or -1.
        state: what the reducer prepared once for the whole pass (a graph, say), indexed by original patches.
        restore_weights: `[B, N0, N]` float32, of what parts of the patch tokens each original patch is restored; carried only
            for a reducer that shares a removed token among several, where one slot does not say it all.
        prefix: how many prefix tokens there are; static.
        class_tokens: how many of them, the first, stand for the whole image (class, distillation); static.
        block, depth: the index of the block that they are in, and how many there are; static.
    """

    x: Float[Array, "B T D"]
    size: Float32[Array, "B N"]
    origin: Int32[Array, "B N"]
    slots: Int32[Array, "B N0"]
    state: Any = None
    restore_weights: Float32[Array, "B N0 N"] | None = None
    prefix: int = field(default=1, metadata={"static": True})
    class_tokens: int = field(default=1, metadata={"static": True})
    block: int = field(default=0, metadata={"static": True})
    depth: int = field(default=1, metadata={"static": True})

    @classmethod
    def start(cls, x: Float[Array, "B T D"], prefix: int, class_tokens: int | None = None, depth: int = 1) -> Tokens:
        """Tokens straight from the embedding: every patch its own token, of size one.

        Args:
            x: `[B, T, D]`.
            prefix: protected tokens in front.
            class_tokens: how many of them stand for the image; None for one, if there is a prefix at all.
            depth: how many blocks are to come.
        """
        batch, patches = x.shape[0], x.shape[1] - prefix
        index = jnp.broadcast_to(jnp.arange(patches, dtype=jnp.int32), (batch, patches))
        classes = min(prefix, 1) if class_tokens is None else class_tokens
        size = jnp.ones((batch, patches), jnp.float32)
        return cls(x, size, index, index, prefix=prefix, class_tokens=classes, depth=depth)

    def with_restore_weights(self) -> Tokens:
        """The same tokens, from here on with what restores them where slots do not suffice (see `restore_weights`)."""
        return replace(self, restore_weights=jax.nn.one_hot(self.slots, self.origin.shape[1], dtype=jnp.float32))

    @property
    def patches(self) -> Float[Array, "B N D"]:
        """`[B, N, D]`, the tokens that a reducer may remove."""
        return self.x[:, self.prefix :]

    def with_x(self, x: Float[Array, "B T D"]) -> Tokens:
        """The same tokens with other features."""
        return replace(self, x=x)

    def with_state(self, state: Any) -> Tokens:
        """The same tokens with what a reducer prepared."""
        return replace(self, state=state)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """What one block does with its patch tokens: `y = self_weight * x[kept] + weight @ x[removed]`.

    Indices are rows among the patch tokens now, ascending, so that survivors stay in raster order. `S` survive: the
    `K` kept ones, and behind them any that are fused of removed ones alone.

    Attributes:
        kept: `[B, K]` int32.
        removed: `[B, R]` int32.
        weight: `[B, S, R]` float32, with what weight each removed token enters each survivor; None where removed
            tokens leave nothing behind.
        self_weight: `[B, K]` float32, with what weight a kept token enters itself; None for 1.
        share: `[B, S, R]` float32, the part of each removed token's size that passes to each survivor; None for none.
        target: `[B, R]` int32, the survivor that holds a removed token's patches from now on; -1 where it found none,
            and its patches are lost.
        valid: `[B, K]` bool, which kept tokens survive; the others only fill the fixed width, of size 0. None for all.
    """

    kept: Int32[Array, "B K"]
    removed: Int32[Array, "B R"]
    weight: Float32[Array, "B S R"] | None
    self_weight: Float32[Array, "B K"] | None
    share: Float32[Array, "B S R"] | None
    target: Int32[Array, "B R"]
    valid: Bool[Array, "B K"] | None = None

    @property
    def survivors(self) -> int:
        """`S`: the kept tokens and the fused ones behind them."""
        matrix = self.share if self.weight is None else self.weight
        return self.kept.shape[1] if matrix is None else matrix.shape[1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trace:
    """The plans of one forward pass, composed: one entry per block, whether or not it removed anything.

    Attributes:
        kept: per block `[B, K]` int32, the original patch index of each surviving token, ascending; -1 behind them for
            one that was fused of several and has no patch of its own. Those of size 0 do not survive: they fill the
            fixed width of a method that keeps fewer in some images.
        slots: per block `[B, N0]` int32, the row among them that holds each original patch, or -1.
        sizes: per block `[B, K]` float32, how many original patches each surviving token stands for.
        counts: per block `[B]` int32, how many patch tokens survive in each image.
    """

    kept: tuple[Int32[Array, "B K"], ...] = ()
    slots: tuple[Int32[Array, "B N0"], ...] = ()
    sizes: tuple[Float32[Array, "B K"], ...] = ()
    counts: tuple[Int32[Array, " B"], ...] = ()

    def record(self, tokens: Tokens) -> Trace:
        """The trace with one more block, after which `tokens` are what survives."""
        counts = (tokens.size > 0).sum(-1, dtype=jnp.int32)
        return Trace(
            kept=(*self.kept, tokens.origin),
            slots=(*self.slots, tokens.slots),
            sizes=(*self.sizes, tokens.size),
            counts=(*self.counts, counts),
        )
