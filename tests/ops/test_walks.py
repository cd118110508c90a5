"""Walks against matrix powers in float64."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops import walks


def random_walk(seed):
    scores = 2 * np.random.default_rng(seed).standard_normal((2, 6, 6))
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([1, 2, 3, 8, 32]))
def test_vector_iteration_equals_the_power(seed, order):
    walk = random_walk(seed)
    power = np.linalg.matrix_power(walk, order)
    start = np.random.default_rng(seed).random((2, 6))
    reached = walks.reached(jnp.asarray(walk, jnp.float32), jnp.asarray(start, jnp.float32), order)
    np.testing.assert_allclose(reached, np.einsum("bt,btu->bu", start, power), rtol=1e-5)
    index = np.asarray([1, 4])
    rows = walks.walk_rows(jnp.asarray(walk, jnp.float32), jnp.asarray(walk[:, index], jnp.float32), order)
    np.testing.assert_allclose(rows, power[:, index], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-5)


def test_order_one_is_the_walk_itself():
    walk = jnp.asarray(random_walk(0), jnp.float32)
    np.testing.assert_array_equal(walks.walk_rows(walk, walk, 1), walk)
