"""Tests of activations and their derivatives."""

import math
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.ops.activations import ACTIVATIONS, gelu, gelu_tanh, quick_gelu, silu

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


def test_silu_and_the_tanh_approximation_match_their_formulas():
    x = jnp.asarray(X, jnp.float32)
    np.testing.assert_allclose(silu(x), X / (1 + np.exp(-X)), atol=1e-6)
    expected = 0.5 * X * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))
    np.testing.assert_allclose(gelu_tanh(x), expected, atol=1e-6)
    for activation in (silu, gelu_tanh):
        assert activation(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_activations_have_the_names_of_timm():
    names = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu, "relu": jax.nn.relu, "silu": silu}
    assert names == ACTIVATIONS


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_both_modes_of_differentiation_agree(activation):
    x, tangent, cotangent = jnp.asarray(np.random.default_rng(0).standard_normal((3, 64)), jnp.float32)
    _, forward = jax.jvp(activation, (x,), (tangent,))
    (backward,) = jax.vjp(activation, x)[1](cotangent)
    np.testing.assert_allclose(np.dot(cotangent, forward), np.dot(backward, tangent), rtol=1e-5)
    diagonal = jax.vmap(jax.grad(activation))(x)
    np.testing.assert_allclose(jax.jacfwd(activation)(x), np.diag(diagonal), atol=1e-7)


def test_gelu_second_derivative_matches_the_formula_in_every_order_of_modes():
    x = jnp.asarray(X, jnp.float32)
    # d^2/dx^2 x Phi(x) = (2 - x^2) phi(x)
    expected = (2 - X**2) * np.exp(-0.5 * X**2) / math.sqrt(2 * math.pi)
    for outer, inner in product((jax.jacfwd, jax.jacrev), repeat=2):
        np.testing.assert_allclose(jax.vmap(outer(inner(gelu)))(x), expected, atol=1e-6)


def test_gelu_backward_pass_keeps_its_input_only():
    x = jnp.asarray(X, jnp.bfloat16)
    residuals = [leaf for leaf in jax.tree.leaves(jax.vjp(gelu, x)[1]) if leaf.ndim]
    assert [(leaf.dtype, leaf.shape) for leaf in residuals] == [(jnp.bfloat16, x.shape)]
