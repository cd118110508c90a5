"""Shares of soft fusion at any temperature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tcvit_jax.reducers.fusions import best_share, soft_share

MATCHES = hnp.arrays(np.float32, (1, 4, 5), elements=st.floats(-1, 1, width=32))
TEMPERATURES = st.floats(0, math.inf, exclude_min=True, exclude_max=True) | st.floats(0.05, 20)
compiled = jax.jit(soft_share, static_argnums=(1, 2))


def reference(match, temperature):
    """Return the shares in float64, `[R, K]`, computed by logarithms."""
    share = np.zeros(match.shape)
    for row, out in zip(match.astype(np.float64), share, strict=True):
        positive = row > 0
        if positive.any():
            logarithm = np.log(row[positive]) - np.log(row.max())
            out[positive] = np.exp(logarithm / temperature)
        else:
            out[:] = 1
        out /= out.sum()
    return share


@given(MATCHES, TEMPERATURES)
def test_shares_are_finite_and_sum_to_one_at_any_temperature(match, temperature):
    share = np.asarray(soft_share(jnp.asarray(match), temperature))
    assert np.isfinite(share).all()
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-6)


@given(MATCHES, st.floats(0.05, 100))
def test_shares_equal_the_formula(match, temperature):
    # Near the smallest positive numbers the ratio of two matches underflows.
    match = np.where(np.abs(match) < 1e-6, 0, match)
    share = np.asarray(soft_share(jnp.asarray(match), temperature))
    np.testing.assert_allclose(share[0].T, reference(match[0], temperature), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("temperature", [1e-30, 5e-324, 1e-7])
def test_low_temperatures_give_the_hard_limit_and_finite_gradients(temperature, top):
    match = jnp.asarray(np.random.default_rng(0).uniform(0.1, 1, (2, 7, 30)), jnp.float32)
    np.testing.assert_array_equal(compiled(match, temperature, top), best_share(match))
    weight = jnp.asarray(np.random.default_rng(1).standard_normal((2, 30, 7)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda match: (soft_share(match, temperature, top) * weight).sum()))(match)
    np.testing.assert_array_equal(gradient, 0)


def test_tied_best_matches_share_equally_at_low_temperatures():
    match = jnp.asarray([[[0.7, 0.3, 0.7, -1.0, 0.7]]], jnp.float32)
    np.testing.assert_allclose(soft_share(match, 1e-30)[0, :, 0], [1 / 3, 0, 1 / 3, 0, 1 / 3], rtol=1e-6)


def test_high_temperatures_give_equal_shares_to_all_positive_matches():
    match = jnp.asarray([[[0.7, 0.001, -jnp.inf, -1.0, 0.4]]], jnp.float32)
    np.testing.assert_allclose(soft_share(match, 1e300)[0, :, 0], [1 / 3, 1 / 3, 0, 0, 1 / 3], rtol=1e-6)
