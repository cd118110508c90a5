"""Fixed-size gathers along the token axis."""

import jax
from jax import Array


def take_rows(x: Array, index: Array) -> Array:
    """`out[b, k] = x[b, index[b, k]]` for `x [B, N, ...]` and `index [B, K]`; indices must be in range.

    Written as one indexed row per image: an index broadcast over the width would make the backward pass a
    scatter of single numbers, some thirty times slower on a CPU.
    """
    return jax.vmap(lambda rows, i: rows.at[i].get(mode="promise_in_bounds"))(x, index)


def take_block(matrix: Array, rows: Array, columns: Array) -> Array:
    """`out[b, i, j] = matrix[b, rows[b, i], columns[b, j]]` for `matrix [B, N, M]`."""

    def one(m: Array, i: Array, j: Array) -> Array:
        return m.at[i[:, None], j[None, :]].get(mode="promise_in_bounds")

    return jax.vmap(one)(matrix, rows, columns)
