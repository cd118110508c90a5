"""Tests of image normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.errors import InputError
from tcvit_jax.ops.images import normalize


def test_normalize_uses_the_mean_and_deviation_of_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images / 255 - np.asarray(mean)) / np.asarray(std)
    out = normalize(jnp.asarray(images), mean, std)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_normalize_gives_the_same_bits_inside_and_outside_of_a_program():
    images = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None, None], (1, 256, 1, 3))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_array_equal(normalize(images, mean, std), jax.jit(lambda x: normalize(x, mean, std))(images))


@pytest.mark.parametrize(
    ("images", "mean", "message"),
    [
        (np.zeros((2, 3, 4, 3)), (0.5,) * 3, "images: expected uint8 [B, H, W, C], got float64 (2, 3, 4, 3)"),
        (jnp.zeros((2, 3, 4, 3), jnp.int32), (0.5,) * 3, "images: expected uint8 [B, H, W, C], got int32 (2, 3, 4, 3)"),
        (np.zeros((3, 4, 3), np.uint8), (0.5,) * 3, "images: expected uint8 [B, H, W, C], got uint8 (3, 4, 3)"),
        ([[0]], (0.5,) * 3, "images: expected uint8 [B, H, W, C], got a list"),
        (
            np.zeros((2, 3, 4, 1), np.uint8),
            (0.5,) * 3,
            "mean=(0.5, 0.5, 0.5): must be one value for each of 1 channels",
        ),
    ],
)
def test_normalize_rejects_images_that_are_normalized_already_and_other_channels(images, mean, message):
    with pytest.raises(InputError) as error:
        normalize(images, mean, mean)
    assert str(error.value) == message
