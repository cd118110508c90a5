"""From a decoded image of any size to the network's input size, as uint8.

Resizing is Pillow's, with its antialiasing: timm's published accuracies were measured with it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from tcvit_jax.data import operations, randaugment
from tcvit_jax.data.crops import Box, center_crop, covering, random_box
from tcvit_jax.data.operations import Operation
from tcvit_jax.data.randaugment import ColorJitter, RandAugment
from tcvit_jax.data.sources.base import ImageLike, size_of
from tcvit_jax.errors import InputError, unknown

CROP_MODES = ("center", "squash")
INTERPOLATIONS = operations.RESAMPLING_FILTERS
AUGMENTATION_MODES = ("crop", "shift")
_PILLOW_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class EvalTransform:
    """timm's evaluation: resize to `size / crop_pct`, keeping the aspect ratio, then crop the center.

    For a square `size` the shorter side becomes `floor(size / crop_pct)`; for any other the image is resized
    to just cover `floor(height / crop_pct), floor(width / crop_pct)`. Mode `"squash"` resizes to exactly that, whatever
    the aspect ratio.

    Attributes:
        size: (height, width) of the result.
        channels: 3, or 1 for ITU-R 601 gray.
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
        _check_output(self.size, self.channels, self.interpolation, tuple(INTERPOLATIONS))
        if not self.crop_pct > 0:
            raise InputError(f"crop_pct {self.crop_pct} must be above 0, e.g. 0.9")
        if self.crop_mode not in CROP_MODES:
            raise unknown("crop_mode", self.crop_mode, CROP_MODES)

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Transforms an image of any size to uint8 [height, width, channels]."""
        # Converted before anything else, as in timm.
        pillow = _in_channels(_to_pillow(image), self.channels)
        # Never below one pixel, which a crop_pct far above 1 would ask for.
        height, width = (max(1, math.floor(side / self.crop_pct)) for side in self.size)
        scaled = height, width
        if self.crop_mode == "center":
            scaled = covering(size_of(pillow), scaled)
        resized = _resize(pillow, scaled, INTERPOLATIONS[self.interpolation])
        return center_crop(_to_array(resized), self.size)


@dataclass(frozen=True)
class Augmentation:
    """Everything that was drawn for one image, so that what goes with the image, such as a map of labels, can follow.

    Attributes:
        box: (left, top, right, bottom), the part of the image that is shown, in its pixels.
        flip: whether left and right change places, once the box has been resized.
        shift: by how many pixels of the result it moves (down, right); zeros fill the gap.
        resampling: `"bicubic"` or `"bilinear"`, of the resizing.
        operations: what follows, in order. Some of them move pixels, which no map follows.
    """

    box: Box
    flip: bool = False
    shift: tuple[int, int] = (0, 0)
    resampling: str = "bicubic"
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class TrainTransform:
    """Random augmentation, a function of the image and the generator alone.

    Mode `"crop"` is the random resized crop of ImageNet training, then a horizontal flip. Mode `"shift"`
    resizes the whole image to `size` and moves it by whole pixels, the gap filled with zeros; it never flips,
    because it is for digits and the like. In both, RandAugment or color jitter comes last.

    Attributes:
        size: (height, width) of the result.
        channels: 3, or 1 for ITU-R 601 gray.
        interpolation: `"bicubic"`, `"bilinear"`, or `"random"`, which draws one of the two, again for each
            operation of RandAugment.
        mode: `"crop"` or `"shift"`.
        shift: the most pixels, up, down, left and right, that mode `"shift"` moves by.
        flip: the probability of the flip in mode `"crop"`.
        scale: the least and the greatest share of the image's area that a crop has.
        ratio: the least and the greatest width / height of a crop.
        auto_augment: timm's name of a RandAugment, such as `"rand-m9-mstd0.5-inc1"`; empty for none.
        color_jitter: the strength of torchvision's ColorJitter for brightness, contrast and saturation; 0 for none.
        mean: the color, one number or three in 0..1, with which RandAugment fills what it moves in; the mean that
            images are normalized with.

    Raises:
        InputError: a value out of range, or both `auto_augment` and `color_jitter`, at construction.
    """

    size: tuple[int, int]
    channels: int = 3
    interpolation: str = "bicubic"
    mode: str = "crop"
    shift: int = 1
    flip: float = 0.5
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    auto_augment: str = ""
    color_jitter: float = 0.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)

    def __post_init__(self) -> None:
        """Checks the values now, since a worker process would report them late."""
        _check_output(self.size, self.channels, self.interpolation, randaugment.INTERPOLATIONS)
        if self.mode not in AUGMENTATION_MODES:
            raise unknown("augmentation mode", self.mode, AUGMENTATION_MODES)
        if self.shift < 0:
            raise InputError(f"shift {self.shift} must be 0 or more")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip {self.flip} is not a probability: it must be in 0..1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"scale {self.scale} must be two rising shares in 0..1, e.g. (0.08, 1.0)")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"ratio {self.ratio} must be two rising numbers above 0, e.g. (0.75, 1.33)")
        if len(self.mean) not in _PILLOW_MODES or not all(0 <= value <= 1 for value in self.mean):
            raise InputError(f"mean {self.mean} must be one number or three in 0..1, e.g. (0.5, 0.5, 0.5)")
        if self.auto_augment and self.color_jitter:
            raise InputError(
                f"color_jitter {self.color_jitter} and auto_augment {self.auto_augment!r} exclude each other, as timm "
                "leaves the first out where the second is given: set color_jitter to 0, or auto_augment to ''"
            )
        # Their own checks; made here, worker processes receive them as well.
        _ = self._colors, self._fill

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        """Transforms an image of any size to uint8 [height, width, channels]."""
        return self.apply(image, self.draw(size_of(image), rng))

    def draw(self, image_size: tuple[int, int], rng: np.random.Generator) -> Augmentation:
        """Decides everything about an image of (height, width)."""
        # The order of these draws is a promise: a run repeats only as long as it stands.
        flip, shift = False, (0, 0)
        if self.mode == "crop":
            box = random_box(image_size, self.scale, self.ratio, rng)
            resampling = randaugment.draw_resampling(self.interpolation, rng)
            flip = bool(rng.random() < self.flip)
        else:
            box = 0, 0, image_size[1], image_size[0]
            resampling = randaugment.draw_resampling(self.interpolation, rng)
            down, right = rng.integers(-self.shift, self.shift + 1, size=2).tolist()
            shift = down, right
        return Augmentation(box, flip, shift, resampling, self._colors.draw(rng))

    def apply(self, image: ImageLike, augmentation: Augmentation) -> np.ndarray:
        """Does to an image what was drawn for it: uint8 [height, width, channels]."""
        pillow = _in_channels(_part(image, augmentation.box), self.channels)
        pillow = _resize(pillow, self.size, INTERPOLATIONS[augmentation.resampling])
        if augmentation.shift != (0, 0):
            down, right = augmentation.shift
            # Pillow fills what lies outside with zeros.
            pillow = pillow.crop((-right, -down, pillow.width - right, pillow.height - down))
        if augmentation.flip:
            pillow = pillow.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _to_array(operations.apply(pillow, augmentation.operations, self._fill))

    @cached_property
    def _colors(self) -> RandAugment | ColorJitter:
        if self.auto_augment:
            return RandAugment.parse(self.auto_augment, self.interpolation)
        return ColorJitter(self.color_jitter)

    @cached_property
    def _fill(self) -> tuple[int, ...]:
        return operations.fill_color(self.mean, self.channels)


def _check_output(size: tuple[int, int], channels: int, interpolation: str, options: tuple[str, ...]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"image size {size} must be (height, width), both 1 or more")
    if channels not in _PILLOW_MODES:
        raise InputError(f"channels {channels} must be 3 (color) or 1 (gray)")
    if interpolation not in options:
        raise unknown("interpolation", interpolation, options)


def _to_pillow(image: ImageLike) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _part(image: ImageLike, box: Box) -> Image.Image:
    """The part of an image in a box."""
    if isinstance(image, Image.Image):
        return image.crop(box)
    left, top, right, bottom = box
    if image.shape[-1] == 1:
        return Image.fromarray(image[top:bottom, left:right, 0])
    # Pillow skips what lies between two rows of the part, where an array of the part would be a copy more.
    width = image.shape[1]
    pixels = np.ascontiguousarray(image).reshape(-1)[3 * (top * width + left) : 3 * ((bottom - 1) * width + right)]
    return Image.frombytes("RGB", (right - left, bottom - top), pixels, "raw", "RGB", 3 * width, 1)


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    mode = _PILLOW_MODES[channels]
    return image if image.mode == mode else image.convert(mode)


def _to_array(image: Image.Image) -> np.ndarray:
    """uint8 [h, w, c], with the channel axis also when c is 1."""
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def _resize(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Resizes to (height, width); Pillow itself counts width first."""
    return image.resize((size[1], size[0]), resampling)
