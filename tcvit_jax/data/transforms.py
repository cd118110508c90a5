"""From a decoded image of any size to the network's input size, as uint8.

Resizing is Pillow's, with its antialiasing: timm's published accuracies were measured with it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tcvit_jax.errors import InputError, unknown

CROP_MODES = ("center", "squash")
INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_PILLOW_MODES = {1: "L", 3: "RGB"}
_CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class EvalTransform:
    """timm's evaluation: resize to `size / crop_pct`, keeping the aspect ratio, then crop the centre.

    For a square `size` the shorter side becomes `floor(size / crop_pct)`; for any other the image is resized
    to just cover `floor(height / crop_pct), floor(width / crop_pct)`. Mode `"squash"` resizes to exactly that, whatever
    the aspect ratio.

    Attributes:
        size: (height, width) of the result.
        channels: 3, or 1 for ITU-R 601 grey.
        crop_pct: the share of the resized image that the crop keeps, per side; above 1 pads with zeros.
        interpolation: `"bicubic"` or `"bilinear"`.
        crop_mode: `"center"` or `"squash"`.

    Raises:
        InputError: a value out of range, at construction.
    """

    size: tuple[int, int]
    channels: int = 3
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        """Checks the values now, since a worker process would report them late."""
        _check_output(self.size, self.channels, self.interpolation)
        if not self.crop_pct > 0:
            raise InputError(f"crop_pct {self.crop_pct} must be above 0, e.g. 0.9")
        if self.crop_mode not in CROP_MODES:
            raise unknown("crop_mode", self.crop_mode, CROP_MODES)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Transforms uint8 [h, w, 3 or 1] to uint8 [height, width, channels]."""
        pillow = _to_pillow(image, self.channels)
        # Never below one pixel, which a crop_pct far above 1 would ask for.
        height, width = (max(1, math.floor(side / self.crop_pct)) for side in self.size)
        scaled = height, width
        if self.crop_mode == "center":
            scaled = _covering((pillow.height, pillow.width), scaled)
        resized = _resize(pillow, scaled, INTERPOLATIONS[self.interpolation])
        return _centre_crop(_to_array(resized), self.size)


@dataclass(frozen=True)
class TrainTransform:
    """Random augmentation, a function of the image and the generator alone.

    Mode `"crop"` is the random resized crop of ImageNet training, then a horizontal flip. Mode `"shift"`
    resizes the whole image to `size` and moves it by whole pixels, the gap filled with zeros; it never flips,
    because it is for digits and the like.

    Attributes:
        size: (height, width) of the result.
        channels: 3, or 1 for ITU-R 601 grey.
        interpolation: `"bicubic"` or `"bilinear"`.
        mode: `"crop"` or `"shift"`.
        shift: the most pixels, up, down, left and right, that mode `"shift"` moves by.
        flip: the probability of the flip in mode `"crop"`.
        scale: the least and the greatest share of the image's area that a crop has.
        ratio: the least and the greatest width / height of a crop.

    Raises:
        InputError: a value out of range, at construction.
    """

    size: tuple[int, int]
    channels: int = 3
    interpolation: str = "bicubic"
    mode: str = "crop"
    shift: int = 1
    flip: float = 0.5
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        """Checks the values now, since a worker process would report them late."""
        _check_output(self.size, self.channels, self.interpolation)
        if self.mode not in _AUGMENTATIONS:
            raise unknown("augmentation mode", self.mode, _AUGMENTATIONS)
        if self.shift < 0:
            raise InputError(f"shift {self.shift} must be 0 or more")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip {self.flip} is not a probability: it must be in 0..1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"scale {self.scale} must be two rising shares in 0..1, e.g. (0.08, 1.0)")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio {self.ratio} must be two rising numbers above 0, e.g. (0.75, 1.33)")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Transforms uint8 [h, w, 3 or 1] to uint8 [height, width, channels]."""
        return _AUGMENTATIONS[self.mode](self, _to_pillow(image, self.channels), rng)


def _augment_by_crop(options: TrainTransform, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    box = _random_box((image.height, image.width), options.scale, options.ratio, rng)
    array = _to_array(_resize(image.crop(box), options.size, INTERPOLATIONS[options.interpolation]))
    return np.ascontiguousarray(array[:, ::-1]) if rng.random() < options.flip else array


def _augment_by_shift(options: TrainTransform, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    array = _to_array(_resize(image, options.size, INTERPOLATIONS[options.interpolation]))
    down, right = rng.integers(-options.shift, options.shift + 1, size=2).tolist()
    return _window(array, -down, -right, options.size)


_AUGMENTATIONS: dict[str, Callable[[TrainTransform, Image.Image, np.random.Generator], np.ndarray]] = {
    "crop": _augment_by_crop,
    "shift": _augment_by_shift,
}


def _check_output(size: tuple[int, int], channels: int, interpolation: str) -> None:
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"image size {size} must be (height, width), both 1 or more")
    if channels not in _PILLOW_MODES:
        raise InputError(f"channels {channels} must be 3 (colour) or 1 (grey)")
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)


def _to_pillow(image: np.ndarray, channels: int) -> Image.Image:
    """A Pillow image of the wanted number of channels; converted before anything else, as in timm."""
    pillow = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    mode = _PILLOW_MODES[channels]
    return pillow if pillow.mode == mode else pillow.convert(mode)


def _to_array(image: Image.Image) -> np.ndarray:
    """uint8 [h, w, c], with the channel axis also when c is 1."""
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def _resize(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Resizes to (height, width); Pillow itself counts width first."""
    return image.resize((size[1], size[0]), resampling)


def _covering(image: tuple[int, int], goal: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of the aspect ratio of `image` that just covers `goal`."""
    height, width = image
    if goal[0] == goal[1]:
        # The longer side is truncated, not rounded: torchvision's rule.
        if height <= width:
            return goal[0], int(goal[0] * width / height)
        return int(goal[0] * height / width), goal[0]
    shrink = min(height / goal[0], width / goal[1])
    return round(height / shrink), round(width / shrink)


def _centre_crop(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Crops the centre of [h, w, c], or pads with zeros on all sides where the array is smaller."""
    top, left = (_centre_offset(array.shape[axis], size[axis]) for axis in (0, 1))
    return _window(array, top, left, size)


def _centre_offset(length: int, wanted: int) -> int:
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


def _random_box(
    image: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """A random (left, top, right, bottom) inside an image of (height, width), of the drawn area and shape."""
    height, width = image
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        # Drawn in logarithms, so that 3:4 is as likely as 4:3.
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = (int(rng.integers(0, free + 1)) for free in (width - columns, height - rows))
            return left, top, left + columns, top + rows
    return _largest_box(image, ratio)


def _largest_box(image: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest centred box of an allowed shape, for images so long that hardly any crop fits."""
    height, width = image
    shape = min(max(width / height, ratio[0]), ratio[1])
    columns = min(width, max(1, round(height * shape)))
    rows = min(height, max(1, round(width / shape)))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows
