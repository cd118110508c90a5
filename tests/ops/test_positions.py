"""Tests of resampled position embeddings against timm."""

import numpy as np
import pytest

from tcvit_jax.ops.positions import resample_bicubic_torch, resample_positions
from tests import golden

_, ARRAYS = golden.read("timm")


@pytest.mark.parametrize("grid", [(12, 12), (6, 10)])
def test_resampling_equals_timm(grid):
    actual = resample_positions(ARRAYS["resample/in"], 1, (8, 8), grid)
    np.testing.assert_allclose(actual, ARRAYS[f"resample/out_{grid[0]}x{grid[1]}"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("prefix", "grid", "target"),
    [(0, (1, 1), (4, 3)), (1, (9, 2), (3, 8)), (5, (5, 5), (5, 5)), (2, (7, 1), (1, 9)), (1, (2, 3), (1, 1))],
)
def test_prefix_is_not_changed_and_constants_stay_constant(prefix, grid, target):
    rng = np.random.default_rng(0)
    patches, target_patches = np.prod(grid), np.prod(target)
    positions = np.concatenate(
        [rng.standard_normal((1, prefix, 3)), np.broadcast_to([0.5, -2.0, 0.0], (1, patches, 3))], axis=1
    ).astype(np.float32)
    actual = np.asarray(resample_positions(positions, prefix, grid, target))
    assert actual.shape == (1, prefix + target_patches, 3)
    np.testing.assert_array_equal(actual[:, :prefix], positions[:, :prefix])
    np.testing.assert_allclose(actual[0, prefix:], np.broadcast_to([0.5, -2.0, 0.0], (target_patches, 3)), atol=1e-5)


def test_height_and_width_are_not_swapped():
    """Embeddings that encode the row encode the row of the target grid."""
    rows = np.repeat(np.arange(6.0), 4)[None, :, None]
    actual = np.asarray(resample_positions(rows, 0, (6, 4), (3, 8))).reshape(3, 8)
    assert (np.diff(actual, axis=0) > 1).all()
    np.testing.assert_allclose(np.ptp(actual, axis=1), 0, atol=1e-5)


@pytest.mark.parametrize(("grid", "target"), [((4, 4), (7, 5)), ((5, 3), (2, 9)), ((6, 6), (6, 6)), ((1, 1), (2, 3))])
def test_bicubic_resampling_of_torch(grid, target):
    """Each value is the sum of 4x4 neighbors, clamped to the grid, with the weights of Keys' kernel for a = -3/4."""

    def weight(distance):
        a, x = -0.75, abs(distance)
        inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
        return inner if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    positions = np.random.default_rng(0).standard_normal((1, 2 + np.prod(grid), 3)).astype(np.float32)
    patches = positions[0, 2:].reshape(*grid, 3)
    actual = resample_bicubic_torch(positions, 2, grid, target)
    np.testing.assert_array_equal(actual[:, :2], positions[:, :2])
    for row, column in np.ndindex(*target):
        y, x = ((index + 0.5) * old / new - 0.5 for index, old, new in zip((row, column), grid, target, strict=True))
        expected = sum(
            weight(y - i) * weight(x - j) * patches[np.clip(i, 0, grid[0] - 1), np.clip(j, 0, grid[1] - 1)]
            for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3)
            for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3)
        )
        np.testing.assert_allclose(actual[0, 2 + row * target[1] + column], expected, rtol=0, atol=1e-5)
