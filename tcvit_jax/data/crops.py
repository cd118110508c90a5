"""Boxes and windows: where a crop lies in an image, for every image and for every map that goes with one."""

import math

import numpy as np

_ATTEMPTS = 10
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom exclusive."""


def random_box(
    image: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A random box inside an image of (height, width), of the drawn area and shape."""
    height, width = image
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        # Drawn in logarithms, so that 3:4 is as likely as 4:3.
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = (int(rng.integers(0, free + 1)) for free in (width - columns, height - rows))
            return left, top, left + columns, top + rows
    return _largest_box(image, ratio)


def _largest_box(image: tuple[int, int], ratio: tuple[float, float]) -> Box:
    """The largest centerd box of an allowed shape, for images so long that hardly any crop fits."""
    height, width = image
    shape = min(max(width / height, ratio[0]), ratio[1])
    columns = min(width, max(1, round(height * shape)))
    rows = min(height, max(1, round(width / shape)))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows


def covering(image: tuple[int, int], goal: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of the aspect ratio of `image` that just covers `goal`."""
    height, width = image
    if goal[0] == goal[1]:
        # The longer side is truncated, not rounded: torchvision's rule.
        if height <= width:
            return goal[0], int(goal[0] * width / height)
        return int(goal[0] * height / width), goal[0]
    shrink = min(height / goal[0], width / goal[1])
    return round(height / shrink), round(width / shrink)


def center_crop(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops the center of [h, w, c], or pads with zeros on all sides where the array is smaller."""
    top, left = (_center_offset(array.shape[axis], size[axis]) for axis in (0, 1))
    return _window(array, top, left, size)


def _center_offset(length: int, wanted: int) -> int:
    # torchvision's roundings: half to even for a crop, and the odd padded pixel goes to the end.
    return round((length - wanted) / 2) if length >= wanted else -((wanted - length) // 2)


def _window(array: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """The window of [h, w, c] at (top, left), which may reach outside: zeros are there."""
    (height, width), (rows, columns) = array.shape[:2], size
    first_row, last_row = max(top, 0), min(top + rows, height)
    first_column, last_column = max(left, 0), min(left + columns, width)
    result = np.zeros((rows, columns, array.shape[2]), array.dtype)
    if first_row < last_row and first_column < last_column:
        inside = array[first_row:last_row, first_column:last_column]
        result[first_row - top : last_row - top, first_column - left : last_column - left] = inside
    return result
