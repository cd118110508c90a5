"""Fixed-size gathers along the token axis, in the form that each platform moves the fewest bytes for.

A TPU has no fast gather: it fetches a whole tile for every index, and a token of a few hundred numbers is one tile as
is a single number. There, rows are picked by a product with a matrix of zeros and ones, which the matrix unit makes of
the indices as it reads them, and which is exact: each sum has one term that is not zero. Elsewhere an indexed row is a
copy, and the product some ten times slower. Which of the two is compiled is known when the program is lowered, and
nothing of the other is left in it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, Shaped

from tcvit_jax.ops.platforms import by_platform


def take_rows(x: Shaped[Array, "B N *rest"], index: Int[Array, "B K"]) -> Shaped[Array, "B K *rest"]:
    """`out[b, k] = x[b, index[b, k]]` for `x [B, N, ...]` and `index [B, K]`; indices must be in range.

    On a TPU a row that is not finite makes the same columns of all others NaN where rows have more than one entry.
    """
    return by_platform(rows_by_product, rows_by_index, x, index)


def take_block(
    matrix: Shaped[Array, "B N M"], rows: Int[Array, "B I"], columns: Int[Array, "B J"]
) -> Shaped[Array, "B I J"]:
    """`out[b, i, j] = matrix[b, rows[b, i], columns[b, j]]` for `matrix [B, N, M]`."""
    return by_platform(block_by_product, block_by_index, matrix, rows, columns)


def rows_by_index(x: Shaped[Array, "B N *rest"], index: Int[Array, "B K"]) -> Shaped[Array, "B K *rest"]:
    """`take_rows` by indexing.

    Written as one indexed row per image: an index broadcast over the width would make the backward pass a
    scatter of single numbers, some thirty times slower on a CPU.
    """
    return jax.vmap(lambda rows, i: rows.at[i].get(mode="promise_in_bounds"))(x, index)


def rows_by_product(x: Shaped[Array, "B N *rest"], index: Int[Array, "B K"]) -> Shaped[Array, "B K *rest"]:
    """`take_rows` by a product; by a masked sum where there is one entry to a row."""
    if x.ndim == 2:
        chosen = index[:, :, None] == jnp.arange(x.shape[1])
        return jnp.where(chosen, x[:, None, :], jnp.zeros((), x.dtype)).sum(-1, dtype=x.dtype)
    flat = x.reshape(*x.shape[:2], -1)
    rows = product("bkn,bnd->bkd", one_hot_rows(index, x.shape[1], flat.dtype), flat)
    return rows.reshape(*index.shape, *x.shape[2:])


def block_by_index(
    matrix: Shaped[Array, "B N M"], rows: Int[Array, "B I"], columns: Int[Array, "B J"]
) -> Shaped[Array, "B I J"]:
    """`take_block` by indexing."""

    def one(m: Shaped[Array, "N M"], i: Int[Array, " I"], j: Int[Array, " J"]) -> Shaped[Array, "I J"]:
        return m.at[i[:, None], j[None, :]].get(mode="promise_in_bounds")

    return jax.vmap(one)(matrix, rows, columns)


def block_by_product(
    matrix: Shaped[Array, "B N M"], rows: Int[Array, "B I"], columns: Int[Array, "B J"]
) -> Shaped[Array, "B I J"]:
    """`take_block` by two products, the one that leaves less first."""
    height, width = matrix.shape[1:]
    of_rows, of_columns = (
        one_hot_rows(index, size, matrix.dtype) for index, size in ((rows, height), (columns, width))
    )
    if rows.shape[1] * width < height * columns.shape[1]:
        return product("bim,bjm->bij", product("bin,bnm->bim", of_rows, matrix), of_columns)
    return product("bin,bnj->bij", of_rows, product("bnm,bjm->bnj", matrix, of_columns))


def one_hot_rows(index: Int[Array, "B K"], size: int, dtype: Any) -> Shaped[Array, "B K {size}"]:
    """`[B, K, size]`: 1 where a column is the row's index, 0 elsewhere and where the index is none of them."""
    return (index[:, :, None] == jnp.arange(size)).astype(dtype)


def product(subscripts: str, a: Shaped[Array, "B _ _"], b: Shaped[Array, "B _ _"]) -> Shaped[Array, "B _ _"]:
    """An `einsum` of which each sum has at most one term that is not zero: exact, in the dtype of `a` and `b`.

    bfloat16 and bool are what a TPU multiplies as they are. float32 takes its full precision, six passes.
    """
    if a.dtype == jnp.bool_:
        narrow = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jnp.einsum(subscripts, *narrow, preferred_element_type=jnp.float32) > 0
    precision = None if a.dtype == jnp.bfloat16 else "highest"
    return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=a.dtype)
