"""Gathers against NumPy indexing, forward and backward."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops.gather import block_by_index, block_by_product, rows_by_index, rows_by_product, take_block, take_rows

compiled_rows, compiled_block = jax.jit(take_rows), jax.jit(take_block)


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_rows_and_blocks_equal_numpy(seed):
    rng = np.random.default_rng(seed)
    x, matrix = rng.standard_normal((2, 9, 3)), rng.standard_normal((2, 9, 8))
    rows, columns = rng.integers(0, 9, (2, 5)), rng.integers(0, 8, (2, 4))
    taken, block = compiled_rows(x, rows), compiled_block(matrix, rows, columns)
    for image in range(2):
        np.testing.assert_array_equal(taken[image], x[image][rows[image]].astype(np.float32))
        np.testing.assert_array_equal(
            block[image], matrix[image][np.ix_(rows[image], columns[image])].astype(np.float32)
        )


def test_gradient_adds_up_repeated_rows():
    index = jnp.asarray([[0, 2, 2], [1, 1, 1]])
    weight = jnp.arange(18.0).reshape(2, 3, 3)
    gradient = jax.grad(lambda x: (take_rows(x, index) * weight).sum())(jnp.zeros((2, 4, 3)))
    expected = np.zeros((2, 4, 3))
    for image in range(2):
        for place, row in enumerate(index[image]):
            expected[image, row] += weight[image, place]
    np.testing.assert_array_equal(gradient, expected)


def test_the_backward_pass_scatters_whole_rows():
    def loss(x):
        return take_rows(x, jnp.zeros((2, 5), jnp.int32)).sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(jnp.zeros((2, 9, 16))))
    # The window of an update is the width of a token, not a single number.
    assert "scatter-add" in text
    assert re.search(r"update_window_dims=\((np\.int64\()?2\)?,\)", text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
def test_rows_by_product_are_those_by_index_to_the_bit(dtype, shape):
    """The form of a TPU, on this machine."""
    rng = np.random.default_rng(0)
    if dtype == "int32" and shape:
        pytest.skip("indices have one entry to a row")
    x = jnp.asarray(rng.standard_normal((2, 9, *shape)) * 1e3).astype(dtype)
    index = jnp.asarray(rng.integers(0, 9, (2, 6)))
    np.testing.assert_array_equal(rows_by_product(x, index), rows_by_index(x, index))
    assert rows_by_product(x, index).dtype == x.dtype


@pytest.mark.parametrize("dtype", ["float32", "bool"])
@pytest.mark.parametrize("sides", [(2, 7), (7, 2)])
def test_blocks_by_product_are_those_by_index_to_the_bit(dtype, sides):
    rng = np.random.default_rng(1)
    matrix = jnp.asarray(rng.standard_normal((2, 9, 8))).astype(dtype)
    rows, columns = (jnp.asarray(rng.integers(0, size, (2, side))) for size, side in zip((9, 8), sides, strict=True))
    np.testing.assert_array_equal(block_by_product(matrix, rows, columns), block_by_index(matrix, rows, columns))


def test_each_platform_gets_its_own_form_and_nothing_of_the_other():
    x, index = jnp.zeros((2, 9, 4)), jnp.zeros((2, 5), jnp.int32)
    traced = jax.jit(take_rows).trace(x, index)
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu")}
    assert "stablehlo.gather" in texts["cpu"] and "stablehlo.dot_general" not in texts["cpu"]
    assert "stablehlo.dot_general" in texts["tpu"] and "stablehlo.gather" not in texts["tpu"]
