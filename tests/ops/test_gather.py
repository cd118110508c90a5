"""Gathers against NumPy indexing, forward and backward."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops.gather import take_block, take_rows


@settings(max_examples=20)
@given(st.integers(0, 99))
def test_rows_and_blocks_equal_numpy(seed):
    rng = np.random.default_rng(seed)
    x, matrix = rng.standard_normal((2, 9, 3)), rng.standard_normal((2, 9, 8))
    rows, columns = rng.integers(0, 9, (2, 5)), rng.integers(0, 8, (2, 4))
    for image in range(2):
        taken = take_rows(jnp.asarray(x), jnp.asarray(rows))[image]
        np.testing.assert_array_equal(taken, x[image][rows[image]].astype(np.float32))
        block = take_block(jnp.asarray(matrix), jnp.asarray(rows), jnp.asarray(columns))[image]
        np.testing.assert_array_equal(block, matrix[image][np.ix_(rows[image], columns[image])].astype(np.float32))


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
