"""Tests of image normalization."""

import jax.numpy as jnp
import numpy as np

from tcvit_jax.ops.images import normalize


def test_normalize_uses_the_mean_and_deviation_of_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images / 255 - np.asarray(mean)) / np.asarray(std)
    out = normalize(jnp.asarray(images), mean, std)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)
