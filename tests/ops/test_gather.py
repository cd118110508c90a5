"""Tests of gathers and their gradients against NumPy indexing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops.gather import block_by_index, block_by_product, rows_by_index, rows_by_product, take_block, take_rows

jit_take_rows, jit_take_block = jax.jit(take_rows), jax.jit(take_block)


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_take_rows_and_take_block_equal_numpy_indexing(seed):
    rng = np.random.default_rng(seed)
    x, matrix = rng.standard_normal((2, 9, 3)), rng.standard_normal((2, 9, 8))
    rows, columns = rng.integers(0, 9, (2, 5)), rng.integers(0, 8, (2, 4))
    selected, block = jit_take_rows(x, rows), jit_take_block(matrix, rows, columns)
    for image in range(2):
        np.testing.assert_array_equal(selected[image], x[image][rows[image]].astype(np.float32))
        np.testing.assert_array_equal(
            block[image], matrix[image][np.ix_(rows[image], columns[image])].astype(np.float32)
        )


def test_gradients_of_repeated_rows_are_summed():
    index = jnp.asarray([[0, 2, 2], [1, 1, 1]])
    weight = jnp.arange(18.0).reshape(2, 3, 3)
    gradient = jax.grad(lambda x: (take_rows(x, index) * weight).sum())(jnp.zeros((2, 4, 3)))
    expected = np.zeros((2, 4, 3))
    for image in range(2):
        for position, row in enumerate(index[image]):
            expected[image, row] += weight[image, position]
    np.testing.assert_array_equal(gradient, expected)


def test_backward_pass_scatters_full_rows():
    def loss(x):
        return take_rows(x, jnp.zeros((2, 5), jnp.int32)).sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(jnp.zeros((2, 9, 16))))
    # The update window is the width of a token, not a single number.
    assert "scatter-add" in text
    assert re.search(r"update_window_dims=\((np\.int64\()?2\)?,\)", text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
def test_rows_by_product_equal_rows_by_index_exactly(dtype, shape):
    """The TPU implementation gives the same bits as indexing, tested on the CPU."""
    rng = np.random.default_rng(0)
    if dtype == "int32" and shape:
        pytest.skip("index arrays have a single entry per row")
    x = jnp.asarray(rng.standard_normal((2, 9, *shape)) * 1e3).astype(dtype)
    index = jnp.asarray(rng.integers(0, 9, (2, 6)))
    np.testing.assert_array_equal(rows_by_product(x, index), rows_by_index(x, index))
    assert rows_by_product(x, index).dtype == x.dtype


@pytest.mark.parametrize("dtype", ["float32", "bool"])
@pytest.mark.parametrize("block_shape", [(2, 7), (7, 2)])
def test_block_by_product_equals_block_by_index_exactly(dtype, block_shape):
    rng = np.random.default_rng(1)
    matrix = jnp.asarray(rng.standard_normal((2, 9, 8))).astype(dtype)
    rows, columns = (jnp.asarray(rng.integers(0, n, (2, count))) for n, count in zip((9, 8), block_shape, strict=True))
    np.testing.assert_array_equal(block_by_product(matrix, rows, columns), block_by_index(matrix, rows, columns))


def test_only_the_implementation_of_the_platform_is_lowered():
    x, index = jnp.zeros((2, 9, 4)), jnp.zeros((2, 5), jnp.int32)
    traced = jax.jit(take_rows).trace(x, index)
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")}
    assert "stablehlo.gather" in texts["cpu"] and "stablehlo.dot_general" not in texts["cpu"]
    assert "stablehlo.dot_general" in texts["tpu"] and "stablehlo.gather" not in texts["tpu"]
