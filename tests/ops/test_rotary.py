"""Rotary positions against float64 formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcvit_jax.ops.rotary import ROPE_TYPES, Rotary, Rotation, rotate_patches

GRIDS = st.sampled_from([(1, 1), (2, 3), (6, 6), (16, 16), (5, 1)])


def angles(rope_type, temperature, grid, head_dim, reference, coordinates=None):
    """Return the angle of every pair of channels at every patch, or at `coordinates` in units of patches."""
    if coordinates is None:
        coordinates = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    result = []
    for place in coordinates:
        for index, side in zip(place, grid, strict=True):
            for pair in range(head_dim // 4):
                if rope_type == "dinov3":
                    position = 2 * np.pi * (2 * (index + 0.5) / side - 1)
                else:
                    position = index / side * reference
                result.append(position * temperature ** (-pair / (head_dim // 4)))
    return np.reshape(result, (len(coordinates), head_dim // 2))


def rotated(x, angle, is_interleaved):
    """Rotate the pairs of channels of `x [..., d]` by `angle [..., d / 2]` as complex numbers."""
    half = x.shape[-1] // 2
    first, second = (x[..., ::2], x[..., 1::2]) if is_interleaved else (x[..., :half], x[..., half:])
    turned = (first + 1j * second) * np.exp(1j * angle)
    pair = (turned.real, turned.imag)
    return np.stack(pair, -1).reshape(x.shape) if is_interleaved else np.concatenate(pair, -1)


@given(
    rope_type=st.sampled_from(ROPE_TYPES), grid=GRIDS, head_dim=st.sampled_from([4, 12, 64]),
    temperature=st.floats(1, 1e5), reference=st.integers(1, 32), prefix=st.integers(0, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_rotation_equals_formula(rope_type, grid, head_dim, temperature, reference, prefix, seed):
    rotary = Rotary(rope_type, temperature, grid, head_dim, reference)
    patches = grid[0] * grid[1]
    x = np.random.default_rng(seed).standard_normal((1, 2, prefix + patches, head_dim)).astype(np.float32)
    result = np.asarray(rotate_patches(jnp.asarray(x), rotary.rotation()))
    np.testing.assert_array_equal(result[:, :, :prefix], x[:, :, :prefix])
    angle = angles(rope_type, temperature, grid, head_dim, reference)
    expected = rotated(x[:, :, prefix:].astype(np.float64), angle, rope_type == "cat")
    np.testing.assert_allclose(result[:, :, prefix:], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rope_type", ROPE_TYPES)
def test_tokens_keep_the_rotation_of_their_patch_bit_for_bit(rope_type):
    rotary = Rotary(rope_type, 100.0, (4, 6), 12, 16)
    dense = rotary.rotation()
    origin = jnp.asarray([[0, 3, 7, 23], [1, 2, 22, 23]], jnp.int32)
    slots = jnp.zeros((2, 24), jnp.int32)
    for max_fused in (0, 2):
        rotation = rotary.rotation_of(origin, slots, max_fused)
        for image in range(2):
            np.testing.assert_array_equal(rotation.cos[image], dense.cos[0][origin[image]])
            np.testing.assert_array_equal(rotation.sin[image], dense.sin[0][origin[image]])


@pytest.mark.parametrize("rope_type", ROPE_TYPES)
def test_fused_token_has_the_mean_position_of_its_patches(rope_type):
    """The first image has one fused token of three patches, one of one patch; the second image a fused one of none."""
    rotary = Rotary(rope_type, 100.0, (4, 6), 12, 16)
    origin = jnp.asarray([[5, -1, -1], [5, 6, -1]], jnp.int32)
    slots = np.full((2, 24), -1, np.int32)
    slots[0, [0, 7, 9]], slots[0, 11] = 1, 2
    rotation = rotary.rotation_of(origin, jnp.asarray(slots), 2)
    places = [np.mean([(0, 0), (1, 1), (1, 3)], axis=0), (1, 5)]
    angle = angles(rope_type, 100.0, (4, 6), 12, 16, places)
    expected = np.repeat(angle, 2, -1) if rope_type == "cat" else np.concatenate([angle, angle], -1)
    np.testing.assert_allclose(rotation.cos[0, 1:], np.cos(expected), atol=1e-5)
    np.testing.assert_allclose(rotation.sin[0, 1:], np.sin(expected), atol=1e-5)
    np.testing.assert_array_equal(rotation.cos[1, 2], 1)


def test_rotation_has_the_dtype_of_its_input():
    rotary = Rotary("dinov3", 100.0, (2, 2), 8, 16)
    x = jnp.ones((1, 1, 5, 8), jnp.bfloat16)
    assert rotate_patches(x, rotary.rotation()).dtype == jnp.bfloat16
    assert isinstance(rotary.rotation(), Rotation)
