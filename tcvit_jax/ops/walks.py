"""Walks over the attention graph, without ever forming a power of it (TC-ViT, section 3).

`W [B, T, T]` is row-stochastic (rows are queries). Every kind of walk is a polynomial of it, `C = sum_k c_k W^k`, whose
column sums take `K` vector products and whose match rows take `K - 1` thin ones: float32 at full precision, because a
rounded product changes which token wins.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32

# The coefficients c_0 .. c_K of a walk of order K; gamma is Katz's discount.
WALKS: dict[str, Callable[[int, float], list[float]]] = {
    "power": lambda order, gamma: [0.0] * order + [1.0],
    "cumulative": lambda order, gamma: [0.0] + [1 / order] * order,
    "katz": lambda order, gamma: [0.0, *_to_sum_one([gamma**k for k in range(order)])],
    "lazy": lambda order, gamma: [math.comb(order, k) / 2**order for k in range(order + 1)],
}


def _to_sum_one(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


def coefficients(walk: str, order: int, gamma: float = 0.5) -> list[float]:
    """What each number of steps counts, `c_0 .. c_K`; they sum to 1.

    Args:
        walk: `"power"`, `W^K`; `"cumulative"`, the mean of `W^1 .. W^K`; `"katz"`, their mean with weights
            `gamma^(k-1)`; `"lazy"`, `((I + W) / 2)^K`.
        order: K, at least 1.
        gamma: Katz's discount, between 0 (order 1) and 1 (cumulative).
    """
    return WALKS[walk](order, gamma)


def walk_mass(
    walk: Float32[Array, "B T T"], start: Float32[Array, "B T"], counts: Sequence[float]
) -> Float32[Array, "B T"]:
    """`start @ C`: how much of the mass that starts on each token ends on each, `[B, T]`.

    Args:
        walk: `W [B, T, T]` float32.
        start: `[B, T]` mass per token; ones give the column sums of `C`.
        counts: `c_0 .. c_K`.
    """
    total = counts[0] * start
    for count in counts[1:]:
        start = jnp.einsum("bt,btu->bu", start, walk, precision="highest")
        total += count * start
    return total


def walk_rows(
    walk: Float32[Array, "B T T"], rows: Float32[Array, "B R T"], counts: Sequence[float]
) -> Float32[Array, "B R T"]:
    """Rows `[B, R, T]` of `C - c_0 I`, from the same rows `[B, R, T]` of `W`; order 1 needs no product."""
    total = counts[1] * rows
    for count in counts[2:]:
        rows = jnp.einsum("brt,btu->bru", rows, walk, precision="highest")
        total += count * rows
    return total
