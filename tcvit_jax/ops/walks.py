"""Walks over the attention graph, `C_K = W^K`, without ever forming the power (TC-ViT, section 3).

`W [B, T, T]` is row-stochastic (rows are queries). Column sums take K vector products and match rows K - 1 thin
ones: float32 at full precision, because a rounded product changes which token wins.
"""

import jax.numpy as jnp
from jax import Array


def reached(walk: Array, start: Array, order: int) -> Array:
    """`start @ W^order`: how much of the mass that starts on each token ends on each, `[B, T]`.

    Args:
        walk: `W [B, T, T]` float32.
        start: `[B, T]` mass per token; ones give the column sums of `W^order`.
        order: number of steps, at least 1.
    """
    for _ in range(order):
        start = jnp.einsum("bt,btu->bu", start, walk, precision="highest")
    return start


def walk_rows(walk: Array, rows: Array, order: int) -> Array:
    """Rows `[B, R, T]` of `W^order`, from the same rows `[B, R, T]` of `W`; order 1 needs no product."""
    for _ in range(order - 1):
        rows = jnp.einsum("brt,btu->bru", rows, walk, precision="highest")
    return rows
