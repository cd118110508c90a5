"""Tests of the matrix product in both layouts, and of the layout of each platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.ops.linear import linear, merged_matmul


@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 3, 2)])
def test_both_layouts_equal_the_product_over_the_last_axis(shape):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((*shape, 4)), rng.standard_normal((4, 6))
    for function in (linear, merged_matmul):
        np.testing.assert_allclose(function(jnp.asarray(x), jnp.asarray(kernel)), x @ kernel, rtol=1e-5, atol=1e-6)


def test_leading_axes_are_merged_on_cpu_but_not_on_tpu():
    x, kernel = jnp.zeros((2, 5, 4)), jnp.zeros((4, 6))
    traced = jax.jit(linear).trace(x, kernel)
    on_cpu, on_tpu = (traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu"))
    assert "tensor<10x4xf32>, tensor<4x6xf32>" in on_cpu and "tensor<2x5x4xf32>, tensor<4x6xf32>" not in on_cpu
    assert "tensor<2x5x4xf32>, tensor<4x6xf32>" in on_tpu and "tensor<10x4xf32>" not in on_tpu
