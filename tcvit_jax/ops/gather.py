"""Fixed-size gathers along the token axis, implemented separately for TPUs and for other platforms.

A TPU has no fast gather: it fetches a full tile for every index, whether the row is a single number or a token of a few
hundred. On a TPU, rows are therefore selected by a product with a one-hot matrix, which the matrix unit generates from
the indices as it reads them. The product is exact, because each sum has a single non-zero term. On other platforms, an
indexed row is a copy and the product is about ten times slower. The implementation is chosen when the program is
lowered, and the other one is not compiled.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, Shaped

from tcvit_jax.ops.platforms import by_platform


def take_rows(x: Shaped[Array, "B N *rest"], index: Int[Array, "B K"]) -> Shaped[Array, "B K *rest"]:
    """Return `out[b, k] = x[b, index[b, k]]`.

    On a TPU, if rows have more than one entry, a non-finite entry makes the same column of every selected row NaN.

    Args:
        x: `[B, N, ...]` of any dtype.
        index: `[B, K]` integers, which must be in range.

    Returns:
        `[B, K, ...]` in the dtype of `x`.
    """
    return by_platform(rows_by_product, rows_by_index, x, index)


def take_block(
    matrix: Shaped[Array, "B N M"], rows: Int[Array, "B I"], columns: Int[Array, "B J"]
) -> Shaped[Array, "B I J"]:
    """Return `out[b, i, j] = matrix[b, rows[b, i], columns[b, j]]`.

    Args:
        matrix: `[B, N, M]` of any dtype.
        rows: `[B, I]` integers, which must be in range.
        columns: `[B, J]` integers, which must be in range.

    Returns:
        `[B, I, J]` in the dtype of `matrix`.
    """
    return by_platform(block_by_product, block_by_index, matrix, rows, columns)


def rows_by_index(x: Shaped[Array, "B N *rest"], index: Int[Array, "B K"]) -> Shaped[Array, "B K *rest"]:
    """Implement `take_rows` by indexing.

    Rows are indexed per image. An index broadcast over the width would turn the backward pass into a scatter of single
    numbers, which is about thirty times slower on a CPU.
    """
    return jax.vmap(lambda x, i: x.at[i].get(mode="promise_in_bounds"))(x, index)


def rows_by_product(x: Shaped[Array, "B N *rest"], index: Int[Array, "B K"]) -> Shaped[Array, "B K *rest"]:
    """Implement `take_rows` by a product with a one-hot matrix, or by a masked sum if a row has a single entry."""
    if x.ndim == 2:
        is_selected = index[:, :, None] == jnp.arange(x.shape[1], dtype=index.dtype)[None, None]
        return jnp.where(is_selected, x[:, None, :], jnp.zeros((), x.dtype)).sum(-1, dtype=x.dtype)
    features = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    rows = one_hot_einsum("bkn,bnd->bkd", one_hot_rows(index, x.shape[1], features.dtype), features)
    return rows.reshape(*index.shape, *x.shape[2:])


def block_by_index(
    matrix: Shaped[Array, "B N M"], rows: Int[Array, "B I"], columns: Int[Array, "B J"]
) -> Shaped[Array, "B I J"]:
    """Implement `take_block` by indexing."""

    def take(m: Shaped[Array, "N M"], i: Int[Array, " I"], j: Int[Array, " J"]) -> Shaped[Array, "I J"]:
        return m.at[i[:, None], j[None, :]].get(mode="promise_in_bounds")

    return jax.vmap(take)(matrix, rows, columns)


def block_by_product(
    matrix: Shaped[Array, "B N M"], rows: Int[Array, "B I"], columns: Int[Array, "B J"]
) -> Shaped[Array, "B I J"]:
    """Implement `take_block` by two products with one-hot matrices; the smaller intermediate result comes first."""
    height, width = matrix.shape[1:]
    row_selector, column_selector = (
        one_hot_rows(index, size, matrix.dtype) for index, size in ((rows, height), (columns, width))
    )
    if rows.shape[1] * width < height * columns.shape[1]:
        return one_hot_einsum("bim,bjm->bij", one_hot_einsum("bin,bnm->bim", row_selector, matrix), column_selector)
    return one_hot_einsum("bin,bnj->bij", row_selector, one_hot_einsum("bnm,bjm->bnj", matrix, column_selector))


def one_hot_rows(index: Int[Array, "B K"], size: int, dtype: Any) -> Shaped[Array, "B K {size}"]:
    """Return `[B, K, size]`, the one-hot row of each index; the row of an index outside `0..size-1` is zero."""
    return (index[:, :, None] == jnp.arange(size, dtype=index.dtype)[None, None]).astype(dtype)


def one_hot_einsum(subscripts: str, a: Shaped[Array, "B _ _"], b: Shaped[Array, "B _ _"]) -> Shaped[Array, "B _ _"]:
    """Return an `einsum` in which each sum has at most one non-zero term, so that it is exact.

    A TPU multiplies bfloat16 natively, and booleans are converted to it. float32 needs full precision, six passes of
    the matrix unit.

    Args:
        subscripts: The subscripts of `jnp.einsum`.
        a: `[B, _, _]` of any dtype.
        b: `[B, _, _]` of the same dtype.

    Returns:
        The result in the dtype of `a` and `b`.
    """
    if a.dtype == jnp.bool_:
        operands = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jnp.einsum(subscripts, *operands, preferred_element_type=jnp.float32) > 0
    precision = None if a.dtype == jnp.bfloat16 else "highest"
    return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=a.dtype)
