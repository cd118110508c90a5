"""The dense model at a lower resolution, with the multiply-adds of a budget."""

from __future__ import annotations

import itertools
from dataclasses import replace

from tcvit_jax.errors import invalid
from tcvit_jax.models import ViT
from tcvit_jax.models.create import change_model
from tcvit_jax.models.image_preprocessing import Preprocessing


def image_size(model: ViT, budget: float) -> tuple[int, int]:
    """Return the largest image size at which the dense model meets a budget.

    Its patch grid has about the aspect ratio of the full one: the width of a grid differs from that of the exact ratio
    by at most one patch.

    Args:
        model: The dense model.
        budget: The budget in units of 1e9 multiply-adds.

    Returns:
        The height and width in pixels.

    Raises:
        InputError: Even the smallest grid exceeds the budget.
    """
    height, width = model.grid
    grids = [
        grid
        for grid in itertools.product(range(1, height + 1), range(1, width + 1))
        if abs(grid[1] - grid[0] * width / height) <= 1
    ]
    # The largest first, and of equal ones that with the nearest aspect ratio.
    grids.sort(key=lambda grid: (-grid[0] * grid[1], abs(grid[1] - grid[0] * width / height)))
    for rows, columns in grids:
        size = rows * model.patch_size, columns * model.patch_size
        if change_model(model, {"img_size": size}).cost().total <= 1e9 * budget:
            return size
    raise invalid("dense at a lower resolution", f"no image size has at most {budget:.4g} GMACs")


def scale_preprocessing(preprocessing: Preprocessing, full: tuple[int, int], size: tuple[int, int]) -> Preprocessing:
    """Return a preprocessing that shows the same part of an image at another size.

    Args:
        preprocessing: The preprocessing at the full size.
        full: The full height and width in pixels.
        size: The height and width in pixels.
    """
    if preprocessing.resize is None:
        return preprocessing
    return replace(preprocessing, resize=max(min(size), round(preprocessing.resize * min(size) / min(full))))
