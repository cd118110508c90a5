"""Geometry of crops: random boxes, resized sizes and center crops."""

import math

import numpy as np

_ATTEMPTS = 10
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom exclusive."""


def random_box(
    image_size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Return the box of a random resized crop.

    Args:
        image_size: (height, width) of the image.
        scale: Minimum and maximum area of the box, as a fraction of the image area.
        ratio: Minimum and maximum width / height of the box.
        rng: The generator to draw from.

    Returns:
        A box inside the image. If no drawn box fits in ten attempts, the largest center box whose aspect ratio is in
        `ratio`.
    """
    height, width = image_size
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        # Uniform in the logarithm, so that 3:4 is as likely as 4:3.
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = (int(rng.integers(0, margin + 1)) for margin in (width - columns, height - rows))
            return left, top, left + columns, top + rows
    return _largest_box(image_size, ratio)


def _largest_box(image_size: tuple[int, int], ratio: tuple[float, float]) -> Box:
    """Return the largest center box whose aspect ratio is in `ratio`, for images so elongated that few crops fit."""
    height, width = image_size
    aspect = min(max(width / height, ratio[0]), ratio[1])
    columns = min(width, max(1, round(height * aspect)))
    rows = min(height, max(1, round(width / aspect)))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows


def covering_size(image_size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest (height, width) with the aspect ratio of `image_size` that covers `target`.

    Args:
        image_size: (height, width) of the image.
        target: (height, width) to cover.
    """
    height, width = image_size
    if target[0] == target[1]:
        # torchvision truncates the longer side instead of rounding it.
        if height <= width:
            return target[0], int(target[0] * width / height)
        return int(target[0] * height / width), target[0]
    shrink = min(height / target[0], width / target[1])
    return round(height / shrink), round(width / shrink)


def center_crop(array: np.ndarray, size: tuple[int, int], rounding: str = "even") -> np.ndarray:
    """Return the center crop of `array`, zero-padded on all sides where the array is smaller than `size`.

    Args:
        array: The image, [h, w, c].
        size: (height, width) of the crop.
        rounding: `"even"` or `"floor"`, the rounding of the offset of the crop.
    """
    top, left = (_center_offset(array.shape[axis], size[axis], rounding) for axis in (0, 1))
    return _crop_with_padding(array, top, left, size)


def center_interval(length: int, target: int, rounding: str = "even") -> tuple[int, int]:
    """Return the first and the last position, exclusive, of `length` that a center crop of `target` keeps."""
    start = max(0, _center_offset(length, target, rounding))
    return start, min(length, start + target)


def _center_offset(length: int, target: int, rounding: str) -> int:
    # An odd padding pixel goes to the end, as in torchvision and transformers.
    if length < target:
        return -((target - length) // 2)
    # torchvision, which timm uses, rounds half to even; transformers rounds down.
    return (length - target) // 2 if rounding == "floor" else round((length - target) / 2)


def _crop_with_padding(array: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """Return the crop of [h, w, c] at (top, left), with zeros where it extends beyond the array."""
    (height, width), (rows, columns) = array.shape[:2], size
    first_row, last_row = max(top, 0), min(top + rows, height)
    first_column, last_column = max(left, 0), min(left + columns, width)
    result = np.zeros((rows, columns, array.shape[2]), array.dtype)
    if first_row < last_row and first_column < last_column:
        inside = array[first_row:last_row, first_column:last_column]
        result[first_row - top : last_row - top, first_column - left : last_column - left] = inside
    return result
