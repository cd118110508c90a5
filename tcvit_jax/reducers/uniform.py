"""Uniform subsampling of the patch grid: the baseline for selection by content.

Patches are ordered once by farthest-point sampling of the grid: the first patch is in the middle, and each next
patch is the one farthest from all patches before it. Any prefix of this order is spread evenly over the grid and
contains all shorter prefixes.
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
    """Return the position `[N0]` of each patch in farthest-point sampling of the grid.

    Args:
        grid: `(height, width)` of the patch grid.

    Returns:
        Integer positions; ties go to the lower patch index.
    """
    height, width = grid
    row, column = np.divmod(np.arange(height * width), width)
    square = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    position = np.empty(height * width, int)
    current = (height // 2) * width + width // 2
    nearest = np.full(height * width, np.iinfo(np.int64).max)
    for step in range(height * width):
        position[current] = step
        nearest = np.minimum(nearest, square[current])
        current = int(nearest.argmax())
    return position


def _rank(tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
    return -jnp.asarray(tokens.state, jnp.float32)[jnp.maximum(tokens.origin, 0)]


def _prepare(tokens: Tokens, grid: tuple[int, int]) -> Int[Array, " N0"]:
    return jnp.asarray(spread_order(grid), jnp.int32)


# A fused token has no position in the grid and takes that of patch 0.
SPREAD = Score(_rank, prepare=_prepare)


@dataclass(frozen=True, repr=False)
class Uniform(Reducer):
    """Pruning to a fixed pattern that is spread evenly over the grid.

    Attributes:
        proportional_attention: See `Reducer`. Sizes stay 1.
        attention_keep: See `Reducer`.
    """

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """The order of farthest-point sampling, no match, no fusion."""
        return Parts(SPREAD, None, DROP)
