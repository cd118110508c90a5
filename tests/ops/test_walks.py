"""Tests of walks against matrix powers in float64."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops import walks


def random_walk(seed, tokens=6):
    scores = 2 * np.random.default_rng(seed).standard_normal((2, tokens, tokens))
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


def walk_matrix(walk, kind, order, gamma):
    """Return `C_K` by its definition instead of its coefficients."""
    power, identity = np.linalg.matrix_power, np.eye(walk.shape[-1])
    if kind == "power":
        return power(walk, order)
    if kind == "lazy":
        return power((identity + walk) / 2, order)
    weights = [1.0 if kind == "cumulative" else gamma ** (k - 1) for k in range(1, order + 1)]
    return sum(w * power(walk, k) for k, w in enumerate(weights, start=1)) / sum(weights)


@settings(max_examples=30)
@given(
    st.integers(0, 999), st.sampled_from(list(walks.WALKS)), st.sampled_from([1, 2, 3, 8, 32]),
    st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
def test_walk_mass_and_walk_rows_equal_the_matrix(seed, kind, order, gamma):
    walk = random_walk(seed)
    full = walk_matrix(walk, kind, order, gamma)
    coefficients = walks.coefficients(kind, order, gamma)
    start = np.random.default_rng(seed).random((2, 6))
    mass = walks.walk_mass(jnp.asarray(walk, jnp.float32), jnp.asarray(start, jnp.float32), coefficients)
    np.testing.assert_allclose(mass, np.einsum("bt,btu->bu", start, full), rtol=1e-5)
    column_sums = walks.walk_mass(jnp.asarray(walk, jnp.float32), jnp.ones((2, 6)), coefficients)
    np.testing.assert_allclose(column_sums.sum(-1), 6, rtol=1e-5)
    index = np.asarray([1, 4])
    rows = walks.walk_rows(jnp.asarray(walk, jnp.float32), jnp.asarray(walk[:, index], jnp.float32), coefficients)
    identity_rows = coefficients[0] * np.eye(6)[index]
    np.testing.assert_allclose(rows + identity_rows, full[:, index], rtol=1e-5, atol=1e-7)
    # Walks preserve mass, so rows sum to 1; only column sums carry information.
    np.testing.assert_allclose((rows + identity_rows).sum(-1), 1, rtol=1e-5)
    assert (np.asarray(rows) >= 0).all()


@pytest.mark.parametrize("kind", walks.WALKS)
def test_coefficients_sum_to_one(kind):
    for order in (1, 2, 5, 32):
        coefficients = walks.coefficients(kind, order, 0.7)
        assert len(coefficients) == order + 1
        assert math.isclose(sum(coefficients), 1)
        assert min(coefficients) >= 0


def test_katz_ranges_from_order_one_to_cumulative():
    assert walks.coefficients("katz", 5, 0.0) == [0, 1, 0, 0, 0, 0]
    assert walks.coefficients("katz", 5, 1.0) == walks.coefficients("cumulative", 5)


def test_two_steps_sum_over_paths_and_steps_compose():
    walk = random_walk(1)
    rows = np.asarray(walks.walk_rows(jnp.asarray(walk), jnp.asarray(walk), [0, 0, 1]))
    for i in range(6):
        for j in range(6):
            assert math.isclose(rows[0, i, j], sum(walk[0, i, m] * walk[0, m, j] for m in range(6)), rel_tol=1e-5)
    five = np.asarray(walks.walk_rows(jnp.asarray(walk), jnp.asarray(walk), [0, 0, 0, 0, 0, 1]))
    three = np.asarray(walks.walk_rows(jnp.asarray(walk), jnp.asarray(walk), [0, 0, 0, 1]))
    np.testing.assert_allclose(rows @ three, five, rtol=1e-5)


def test_order_one_is_the_walk_itself():
    walk = jnp.asarray(random_walk(0), jnp.float32)
    for kind in ("power", "cumulative", "katz"):
        np.testing.assert_array_equal(walks.walk_rows(walk, walk, walks.coefficients(kind, 1)), walk)
