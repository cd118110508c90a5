"""Transforms from a decoded image of any size to the input size of the network, as uint8.

Images are resized by Pillow, with antialiasing, because timm's published accuracies were measured with it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from tcvit_jax.data import operations, randaugment
from tcvit_jax.data.crops import Box, center_crop, center_interval, covering_size, random_box
from tcvit_jax.data.operations import Operation
from tcvit_jax.data.randaugment import ColorJitter, RandAugment
from tcvit_jax.data.sources.base import ImageLike, size_of
from tcvit_jax.errors import conflicts, out_of_range, unknown

CROP_MODES = ("center", "squash")
CROP_ROUNDINGS = ("even", "floor")
INTERPOLATIONS = operations.RESAMPLING_FILTERS
AUGMENTATION_MODES = ("crop", "shift")
Size = tuple[int, int]
"""(height, width) in pixels."""
_PILLOW_MODES = {1: "L", 3: "RGB"}
# Images that are resized in full may be so much larger than the result, or as large as a photograph.
_MAX_ENLARGEMENT = 64
_PHOTO_PIXELS = 2**24


@dataclass(frozen=True)
class EvalTransform:
    """Evaluation transform of timm and of transformers: resize to `size / crop_pct` or `resize`, then center crop.

    Crop mode `"center"` keeps the aspect ratio: for a square `size` the shorter side becomes `floor(size / crop_pct)`;
    otherwise the image is resized to the smallest size that covers
    `floor(height / crop_pct), floor(width / crop_pct)`. Crop mode `"squash"` resizes to exactly that size and ignores
    the aspect ratio. With `resize`, the shorter side, or with `"squash"` both sides, become so long instead.

    The result is uint8. The image processor of transformers for DINOv3 does not round the resized image to uint8; its
    values, in [0, 1], differ from ours by less than 1 / 255.

    Attributes:
        size: (height, width) of the result.
        channels: 3, or 1 for ITU-R 601 gray.
        crop_pct: Fraction of each side of the resized image that the crop keeps; above 1 the result is zero-padded.
        interpolation: `"bicubic"` or `"bilinear"`.
        crop_mode: `"center"` or `"squash"`.
        resize: Length in pixels of the shorter side, or with `"squash"` of both sides; None for `size / crop_pct`.
        crop_rounding: `"even"` or `"floor"`, the rounding of the offset of the crop.

    Raises:
        InputError: A value is out of range, at construction.
    """

    size: tuple[int, int]
    channels: int = 3
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    resize: int | None = None
    crop_rounding: str = "even"

    def __post_init__(self) -> None:
        """Validate fields here, because a worker process would report errors late."""
        _check_output(self.size, self.channels, self.interpolation, tuple(INTERPOLATIONS))
        if not self.crop_pct > 0:
            raise out_of_range("crop_pct", self.crop_pct, "> 0", "for example 0.9")
        if self.crop_mode not in CROP_MODES:
            raise unknown("crop_mode", self.crop_mode, CROP_MODES)
        if self.resize is not None and self.resize < 1:
            raise out_of_range("resize", self.resize, ">= 1")
        if self.crop_rounding not in CROP_ROUNDINGS:
            raise unknown("crop_rounding", self.crop_rounding, CROP_ROUNDINGS)

    def __call__(self, image: ImageLike) -> np.ndarray:
        """Transform an image of any size.

        Args:
            image: The decoded image.

        Returns:
            uint8 [height, width, channels].
        """
        # Convert before resizing, as timm does.
        pillow = _convert_channels(_to_pillow(image), self.channels)
        return self._resize_and_crop(pillow, INTERPOLATIONS[self.interpolation])

    def label_map(self, image: Image.Image) -> np.ndarray:
        """Transform a map of labels as its image, with the nearest neighbor for each pixel.

        Args:
            image: The map, of mode L, of any size.

        Returns:
            uint8 [height, width]. Padding, with a `crop_pct` above 1, is 0.
        """
        return self._resize_and_crop(image, Image.Resampling.NEAREST)[..., 0]

    def _resize_and_crop(self, pillow: Image.Image, resampling: Image.Resampling) -> np.ndarray:
        # A crop_pct far above 1 would give less than one pixel.
        height, width = (self.resize or max(1, math.floor(side / self.crop_pct)) for side in self.size)
        target = height, width
        if self.crop_mode == "center":
            target = covering_size(size_of(pillow), target)
        return _resize_and_crop(pillow, target, self.size, resampling, self.crop_rounding)


@dataclass(frozen=True)
class Augmentation:
    """Sampled augmentation of one image, which can also be applied to its label map.

    Attributes:
        box: (left, top, right, bottom) of the crop, in pixels of the image.
        flip: Whether the crop is flipped horizontally after resizing.
        shift: Shift (down, right) in pixels of the result; the gap is filled with zeros.
        resampling: `"bicubic"` or `"bilinear"`, the resampling filter of the resize.
        operations: Operations that come last, in order. Label maps ignore them, although some move pixels.
    """

    box: Box
    flip: bool = False
    shift: tuple[int, int] = (0, 0)
    resampling: str = "bicubic"
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True)
class TrainTransform:
    """Random augmentation for training, a function of the image and the generator only.

    Mode `"crop"` is the random resized crop of ImageNet training, followed by a random horizontal flip. Mode `"shift"`
    resizes the full image to `size` and shifts it by an integer number of pixels, filling the gap with zeros; it never
    flips, because it is meant for digits and similar images. In both modes, RandAugment or color jitter comes last.

    Attributes:
        size: (height, width) of the result.
        channels: 3, or 1 for ITU-R 601 gray.
        interpolation: `"bicubic"`, `"bilinear"`, or `"random"`, which samples one of the two for the resize and for
            each operation of RandAugment.
        mode: `"crop"` or `"shift"`.
        shift: Maximum shift in mode `"shift"`, in pixels in each direction.
        flip: Probability of the horizontal flip in mode `"crop"`.
        scale: Minimum and maximum area of a crop, as a fraction of the image area.
        ratio: Minimum and maximum width / height of a crop.
        auto_augment: RandAugment config string of timm, such as `"rand-m9-mstd0.5-inc1"`, or empty for none.
        color_jitter: Strength of torchvision's ColorJitter for brightness, contrast and saturation; 0 for none.
        mean: Fill color of RandAugment, one or three values in [0, 1]: the mean that images are normalized with.

    Raises:
        InputError: A value is out of range, or both `auto_augment` and `color_jitter` are set, at construction.
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
        """Validate fields here, because a worker process would report errors late."""
        _check_output(self.size, self.channels, self.interpolation, randaugment.INTERPOLATIONS)
        if self.mode not in AUGMENTATION_MODES:
            raise unknown("augmentation mode", self.mode, AUGMENTATION_MODES)
        if self.shift < 0:
            raise out_of_range("shift", self.shift, ">= 0")
        if not 0 <= self.flip <= 1:
            raise out_of_range("flip", self.flip, "in [0, 1]", "it is a probability")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise out_of_range("scale", self.scale, "(minimum, maximum) in (0, 1]", "for example (0.08, 1.0)")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise out_of_range("ratio", self.ratio, "(minimum, maximum), both > 0", "for example (0.75, 1.33)")
        if len(self.mean) not in _PILLOW_MODES or not all(0 <= value <= 1 for value in self.mean):
            raise out_of_range("mean", self.mean, "one or three values in [0, 1]", "for example (0.5, 0.5, 0.5)")
        if self.auto_augment and self.color_jitter:
            # timm ignores color_jitter when auto_augment is set.
            other = f"auto_augment={self.auto_augment!r}"
            raise conflicts(f"color_jitter={self.color_jitter}", other, "set color_jitter=0 or auto_augment=''")
        # Compute both here: this validates them and sends them to worker processes with the transform.
        _ = self._color_augmenter, self._fill

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> np.ndarray:
        """Sample an augmentation and apply it to an image.

        Args:
            image: The decoded image, of any size.
            rng: The generator to draw from.

        Returns:
            uint8 [height, width, channels].
        """
        return self.apply(image, self.draw(size_of(image), rng))

    def draw(self, image_size: tuple[int, int], rng: np.random.Generator) -> Augmentation:
        """Sample the augmentation of one image.

        Args:
            image_size: (height, width) of the image.
            rng: The generator to draw from.
        """
        # Do not reorder these draws: it would change the augmentation of existing runs.
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
        return Augmentation(box, flip, shift, resampling, self._color_augmenter.draw(rng))

    def apply(self, image: ImageLike, augmentation: Augmentation) -> np.ndarray:
        """Apply a sampled augmentation to an image.

        Args:
            image: The decoded image.
            augmentation: The augmentation, sampled for the size of the image.

        Returns:
            uint8 [height, width, channels].
        """
        pillow = _convert_channels(_crop(image, augmentation.box), self.channels)
        pillow = _resize(pillow, self.size, INTERPOLATIONS[augmentation.resampling])
        if augmentation.shift != (0, 0):
            down, right = augmentation.shift
            # Pillow fills the region outside the image with zeros.
            pillow = pillow.crop((-right, -down, pillow.width - right, pillow.height - down))
        if augmentation.flip:
            pillow = pillow.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return _to_array(operations.apply(pillow, augmentation.operations, self._fill))

    @cached_property
    def _color_augmenter(self) -> RandAugment | ColorJitter:
        if self.auto_augment:
            return RandAugment.parse(self.auto_augment, self.interpolation)
        return ColorJitter(self.color_jitter)

    @cached_property
    def _fill(self) -> tuple[int, ...]:
        return operations.fill_color(self.mean, self.channels)


def _check_output(size: tuple[int, int], channels: int, interpolation: str, options: tuple[str, ...]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise out_of_range("size", size, "(height, width), both >= 1")
    if channels not in _PILLOW_MODES:
        raise out_of_range("channels", channels, "3 (color) or 1 (gray)")
    if interpolation not in options:
        raise unknown("interpolation", interpolation, options)


def _to_pillow(image: ImageLike) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _crop(image: ImageLike, box: Box) -> Image.Image:
    """Return a crop as a Pillow image."""
    if isinstance(image, Image.Image):
        return image.crop(box)
    left, top, right, bottom = box
    if image.shape[-1] == 1:
        return Image.fromarray(image[top:bottom, left:right, 0])
    # frombytes skips the pixels between two rows of the crop; cropping the array first would cost another copy.
    width = image.shape[1]
    pixels = np.ascontiguousarray(image).reshape(-1)[3 * (top * width + left) : 3 * ((bottom - 1) * width + right)]
    return Image.frombytes("RGB", (right - left, bottom - top), pixels, "raw", "RGB", 3 * width, 1)


def _convert_channels(image: Image.Image, channels: int) -> Image.Image:
    mode = _PILLOW_MODES[channels]
    return image if image.mode == mode else image.convert(mode)


def _to_array(image: Image.Image) -> np.ndarray:
    """Convert to uint8 [h, w, c], with a channel axis even if c is 1."""
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def _resize_and_crop(
    image: Image.Image, resized_size: Size, size: Size, resampling: Image.Resampling, rounding: str
) -> np.ndarray:
    """Resize an image to `resized_size` and return the center crop of `size`, both (height, width).

    Where the resized image would be much larger than both the image and the crop, as that of a strip, only the region
    of the crop is resized. Its pixels can differ, because Pillow rounds the edges of a region, may resize rows or
    columns first, and clips between the two. All other images are resized in full.
    """
    if _is_affordable(math.prod(resized_size), image, size):
        return center_crop(_to_array(_resize(image, resized_size, resampling)), size, rounding)
    top, bottom, first_row, last_row, height = _source_interval(image.height, resized_size[0], size[0], rounding)
    left, right, first_column, last_column, width = _source_interval(image.width, resized_size[1], size[1], rounding)
    region = image.crop((first_column, first_row, last_column, last_row))
    box = left - first_column, top - first_row, right - first_column, bottom - first_row
    return center_crop(_to_array(_resize(region, (height, width), resampling, box)), size, rounding)


def _source_interval(
    length: int, resized_length: int, target: int, rounding: str
) -> tuple[float, float, int, int, int]:
    """Return what a center crop of `target` reads along one axis that is resized from `length` to `resized_length`.

    Returns:
        The edges of the crop in the image, the first and the last pixel, exclusive, that its filter reads, and the
        length of the crop, at most `target`.
    """
    first, last = center_interval(resized_length, target, rounding)
    scale = length / resized_length
    start, end = first * scale, last * scale
    # The bicubic filter, the wider one, reads two pixels of the image or of the result on both sides.
    margin = 2 * max(1.0, scale) + 1
    return start, end, max(0, math.floor(start - margin)), min(length, math.ceil(end + margin)), last - first


def _resize(
    image: Image.Image, size: Size, resampling: Image.Resampling, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Resize the region `box` of an image, by default all of it, to (height, width)."""
    height, width = size
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    # Pillow resizes rows first, so the image between its two steps would have the height of a tall strip.
    if not _is_affordable(image.height * width, image, size):
        image = image.resize((image.width, height), resampling, (0, top, image.width, bottom))
        top, bottom = 0, height
    return image.resize((width, height), resampling, (left, top, right, bottom))


def _is_affordable(pixels: int, image: Image.Image, size: Size) -> bool:
    """Return whether an image of so many pixels may be computed from `image` for a result of (height, width)."""
    return pixels <= max(image.width * image.height, _MAX_ENLARGEMENT * math.prod(size), _PHOTO_PIXELS)
