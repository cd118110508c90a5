"""Symmetric affinities between tokens, and diffusion over them.

An affinity `A [B, N, N]` is symmetric and non-negative. With its row sums `D`, the walk that follows it has the
transition matrix `P = D^-1 A`, which is similar to the symmetric matrix `S = D^-1/2 A D^-1/2`. Unlike in the attention
map, no column can attract every walk: the mass of a column is divided out on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from tcvit_jax.ops import matching, walks


def kernel(x: Float[Array, "B N D"], temperature: float) -> Float32[Array, "B N N"]:
    """Return the affinity `exp((cos(x_i, x_j) - 1) / temperature)`, with ones on the diagonal.

    Args:
        x: `[B, N, D]` keys or features.
        temperature: Positive; small values connect near neighbors only.
    """
    return jnp.exp((matching.cosine(x, x) - 1) / temperature)


def symmetrize(walk: Float32[Array, "B T T"], prefix: int) -> Float32[Array, "B N N"]:
    """Return the affinity `(W + W^T) / 2` between patch tokens, from the attention map `walk`."""
    patches = walk[:, prefix:, prefix:]
    return (patches + jnp.swapaxes(patches, 1, 2)) / 2


def meeting(walk: Float32[Array, "B T T"], prefix: int) -> Float32[Array, "B N N"]:
    """Return the affinity `sum_m W_im W_jm / c_m` of patch tokens whose attention meets at the same tokens.

    `c_m = sum_i W_im` over patch tokens; dividing by it lowers the weight of tokens that receive much attention. It is
    one step along the attention graph and one step back along the reversed walk.

    Args:
        walk: `[B, T, T]` the attention map.
        prefix: Number of prefix tokens, which are no ends `i` and `j`, but are meeting points `m`.
    """
    rows = walk[:, prefix:]
    mass = rows.sum(1, keepdims=True)
    scaled = rows * jax.lax.rsqrt(jnp.where(mass > 0, mass, 1))
    return jnp.einsum("bim,bjm->bij", scaled, scaled, precision="highest")


def normalize(affinity: Float32[Array, "B N N"]) -> tuple[Float32[Array, "B N N"], Float32[Array, "B N"]]:
    """Return `S = D^-1/2 A D^-1/2` and the square roots of the row sums `D`, `[B, N]`.

    Args:
        affinity: `[B, N, N]`, symmetric and non-negative.
    """
    degree = affinity.sum(-1)
    root = jnp.sqrt(jnp.where(degree > 0, degree, 1))
    return affinity / root[:, :, None] / root[:, None, :], root


def diffuse(affinity: Float32[Array, "B N N"], coefficients: Sequence[float]) -> Float32[Array, "B N N"]:
    """Return the connectivity `C = sum_k c_k S^k` by walks over an affinity, `[B, N, N]`.

    Args:
        affinity: `[B, N, N]`.
        coefficients: `c_0 .. c_K`, as in `walks.coefficients`.
    """
    transition, _ = normalize(affinity)
    identity = jnp.eye(affinity.shape[-1], dtype=jnp.float32)[None]
    return walks.walk_rows(transition, transition, coefficients) + coefficients[0] * identity


def walk_mass(affinity: Float32[Array, "B N N"], coefficients: Sequence[float]) -> Float32[Array, "B N"]:
    """Return the mass that walks `P = D^-1 A` from all tokens bring to each token, `[B, N]`.

    Args:
        affinity: `[B, N, N]`.
        coefficients: `c_0 .. c_K`.
    """
    transition, root = normalize(affinity)
    return root * walks.walk_mass(transition, 1 / root, coefficients)


def unit_diagonal(connectivity: Float32[Array, "B N N"]) -> Float32[Array, "B N N"]:
    """Return `C_ij / sqrt(C_ii C_jj)`, whose diagonal is 1.

    Args:
        connectivity: `[B, N, N]`, symmetric and positive semidefinite; rows of zeros stay zero.
    """
    diagonal = jnp.diagonal(connectivity, axis1=-2, axis2=-1)
    scale = jnp.where(diagonal > 0, jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1)), 0)
    return connectivity * scale[:, :, None] * scale[:, None, :]
