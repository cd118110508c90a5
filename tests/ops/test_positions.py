"""Position embeddings on another grid, against timm's."""

import numpy as np
import pytest

from tcvit_jax.ops.positions import resample_positions
from tests import golden

_, ARRAYS = golden.read("timm")


@pytest.mark.parametrize("grid", [(12, 12), (6, 10)])
def test_as_timm_resamples(grid):
    found = resample_positions(ARRAYS["resample/in"], 1, (8, 8), grid)
    np.testing.assert_allclose(found, ARRAYS[f"resample/out_{grid[0]}x{grid[1]}"], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("prefix", "grid", "target"),
    [(0, (1, 1), (4, 3)), (1, (9, 2), (3, 8)), (5, (5, 5), (5, 5)), (2, (7, 1), (1, 9)), (1, (2, 3), (1, 1))],
)
def test_prefixes_stay_and_constants_stay_constant(prefix, grid, target):
    rng = np.random.default_rng(0)
    patches, resampled = np.prod(grid), np.prod(target)
    positions = np.concatenate(
        [rng.standard_normal((1, prefix, 3)), np.broadcast_to([0.5, -2.0, 0.0], (1, patches, 3))], axis=1
    ).astype(np.float32)
    found = np.asarray(resample_positions(positions, prefix, grid, target))
    assert found.shape == (1, prefix + resampled, 3)
    np.testing.assert_array_equal(found[:, :prefix], positions[:, :prefix])
    np.testing.assert_allclose(found[0, prefix:], np.broadcast_to([0.5, -2.0, 0.0], (resampled, 3)), atol=1e-5)


def test_height_and_width_are_not_exchanged():
    """Positions that say their row: so they do on another grid, in its rows."""
    rows = np.repeat(np.arange(6.0), 4)[None, :, None]
    found = np.asarray(resample_positions(rows, 0, (6, 4), (3, 8))).reshape(3, 8)
    assert (np.diff(found, axis=0) > 1).all()
    np.testing.assert_allclose(np.ptp(found, axis=1), 0, atol=1e-5)
