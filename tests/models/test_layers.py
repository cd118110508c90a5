"""Layers of a Vision Transformer."""

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.models.layers import DropPath


def test_drop_path_keeps_the_expectation():
    x = jnp.ones((20_000, 1, 1))
    out = DropPath(0.3).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.7], rtol=1e-6)
    # Three standard errors of the mean of 20,000 Bernoulli draws.
    assert abs(float(out.mean()) - 1) < 3 * np.sqrt(0.3 / 0.7 / 20_000)
