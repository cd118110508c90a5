"""Random walks over the attention graph, computed without matrix powers (TC-ViT, section 3).

`W [B, T, T]` is row-stochastic; rows are queries. Each kind of walk is a polynomial `C = sum_k c_k W^k`. Its column
sums take `K` matrix-vector products, and `R` of its rows take `K - 1` products of a `[R, T]` matrix with `W`. Products
are float32 at full precision, because rounding them changes the ranking of tokens.
"""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32

# Functions of the order K and Katz's discount gamma that return the coefficients c_0 .. c_K.
WALKS: dict[str, Callable[[int, float], list[float]]] = {
    "power": lambda order, gamma: [0.0] * order + [1.0],
    "cumulative": lambda order, gamma: [0.0] + [1 / order] * order,
    "katz": lambda order, gamma: [0.0, *_normalize([gamma**k for k in range(order)])],
    "lazy": lambda order, gamma: [math.comb(order, k) / 2**order for k in range(order + 1)],
}


def _normalize(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


def coefficients(walk: str, order: int, gamma: float = 0.5) -> list[float]:
    """Return the coefficients `c_0 .. c_K` of a walk; they sum to 1.

    Args:
        walk: `"power"`, `W^K`; `"cumulative"`, the mean of `W^1 .. W^K`; `"katz"`, their mean with weights
            `gamma^(k-1)`; or `"lazy"`, `((I + W) / 2)^K`.
        order: `K`, at least 1.
        gamma: Katz's discount, between 0 (equal to order 1) and 1 (equal to `"cumulative"`).

    Returns:
        A list of length `K + 1`.
    """
    return WALKS[walk](order, gamma)


def walk_mass(
    walk: Float32[Array, "B T T"], start: Float32[Array, "B T"], coefficients: Sequence[float]
) -> Float32[Array, "B T"]:
    """Return `start @ C`, the mass on each token at the end of the walk.

    Args:
        walk: `W [B, T, T]` float32.
        start: `[B, T]` mass on each token at the start; ones give the column sums of `C`.
        coefficients: `c_0 .. c_K`.

    Returns:
        `[B, T]` float32.
    """
    total = coefficients[0] * start
    for coefficient in coefficients[1:]:
        start = jnp.einsum("bt,btu->bu", start, walk, precision="highest")
        total += coefficient * start
    return total


def walk_rows(
    walk: Float32[Array, "B T T"], rows: Float32[Array, "B R T"], coefficients: Sequence[float]
) -> Float32[Array, "B R T"]:
    """Return rows of `C - c_0 I`; order 1 needs no product.

    Args:
        walk: `W [B, T, T]` float32.
        rows: `[B, R, T]`, the same rows of `W`.
        coefficients: `c_0 .. c_K`.

    Returns:
        `[B, R, T]` float32.
    """
    total = coefficients[1] * rows
    for coefficient in coefficients[2:]:
        rows = jnp.einsum("brt,btu->bru", rows, walk, precision="highest")
        total += coefficient * rows
    return total
