"""Tests of activations and their derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.ops.activations import ACTIVATIONS, gelu, quick_gelu

X = np.concatenate([np.linspace(-8, 8, 401), [0.0]])


def test_gelu_value_and_derivative_are_exact():
    cdf = np.asarray([0.5 * math.erfc(-x / math.sqrt(2)) for x in X])
    density = np.exp(-0.5 * X**2) / math.sqrt(2 * math.pi)
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(gelu(x), X * cdf, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), cdf + X * density, atol=1e-6)


def test_gelu_is_not_the_tanh_approximation():
    x = jnp.asarray(X, jnp.float32)
    assert float(jnp.abs(gelu(x) - jax.nn.gelu(x, approximate=True)).max()) > 1e-4


def test_bfloat16_gelu_is_the_rounded_float32_value():
    x = jnp.asarray(X, jnp.bfloat16)
    assert gelu(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu(x), gelu(x.astype(jnp.float32)).astype(jnp.bfloat16))
    assert jax.grad(lambda x: gelu(x).sum())(x).dtype == jnp.bfloat16


def test_quick_gelu_value_and_derivative_match_the_formula():
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(quick_gelu(x), X / (1 + np.exp(-1.702 * X)), atol=1e-6)
    slope = 1 / (1 + np.exp(-1.702 * X))
    np.testing.assert_allclose(jax.vmap(jax.grad(quick_gelu))(x), slope + 1.702 * X * slope * (1 - slope), atol=1e-6)
    assert quick_gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_activations_have_the_names_of_timm():
    assert {"gelu": gelu, "quick_gelu": quick_gelu} == ACTIVATIONS
