"""Uniform subsampling: a fixed pattern, spread over the grid, stays. The control for any selection by content.

Patches are ordered once by farthest-point sampling of the grid: the first is in the middle, each next one lies farthest
from all before it. Whatever the number, the first so many of this order are spread evenly, and those of a smaller
number are among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import DROP
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.tokens import Tokens


@cache
def spread_order(grid: tuple[int, int]) -> Int[np.ndarray, " N0"]:
    """`[N0]` int: the place of each patch in the order; ties to the lower index."""
    height, width = grid
    row, column = np.divmod(np.arange(height * width), width)
    square = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    place = np.empty(height * width, int)
    chosen = (height // 2) * width + width // 2
    nearest = np.full(height * width, np.iinfo(np.int64).max)
    for turn in range(height * width):
        place[chosen] = turn
        nearest = np.minimum(nearest, square[chosen])
        chosen = int(nearest.argmax())
    return place


def _rank(tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
    return -jnp.asarray(tokens.state, jnp.float32)[jnp.maximum(tokens.origin, 0)]


def _prepare(tokens: Tokens, grid: tuple[int, int]) -> Int[Array, " N0"]:
    return jnp.asarray(spread_order(grid))


# A token that was fused of several has no place: it counts as the first patch.
SPREAD = Score(_rank, prepare=_prepare)


@dataclass(frozen=True, repr=False)
class Uniform(Reducer):
    """A fixed pattern stays, spread over the grid; the others are dropped.

    Attributes:
        proportional_attention, attention_keep: see `Reducer`; sizes stay 1.
    """

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """The order of the grid, and nothing else."""
        return Parts(SPREAD, None, DROP)
