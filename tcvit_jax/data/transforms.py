"""Images to the model's size, as uint8: timm's evaluation transform, and two for training.

Normalisation is left to the device: a uint8 batch is a quarter of the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tcvit_jax.errors import unknown

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Size = tuple[int, int]


def _filter(interpolation: str) -> Image.Resampling:
    if interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    return INTERPOLATIONS[interpolation]


def _to_pil(image: np.ndarray, channels: int) -> Image.Image:
    """A Pillow image of 1 or 3 channels; colour becomes grey by ITU-R 601 luma."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return picture.convert("L" if channels == 1 else "RGB")


def _to_array(picture: Image.Image) -> np.ndarray:
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def resized_size(height: int, width: int, size: Size, crop_pct: float) -> Size:
    """The size an image is resized to before the centre crop.

    For a square crop timm's rule: the shorter side becomes `floor(size / crop_pct)`, the longer one keeps the ratio,
    truncated. For a rectangle, the smallest size of that ratio that covers `floor(size / crop_pct)` on both sides.
    """
    target_height, target_width = (math.floor(side / crop_pct) for side in size)
    if target_height == target_width:
        short, long = min(height, width), max(height, width)
        other = int(target_height * long / short)
        return (other, target_height) if height > width else (target_height, other)
    scale = max(target_height / height, target_width / width)
    return round(height * scale), round(width * scale)


def centre_crop(image: np.ndarray, size: Size) -> np.ndarray:
    """The middle `size` of `[h, w, c]`, padded with zeros where the image is smaller (torchvision's rounding)."""
    for axis, side in enumerate(size):
        missing = side - image.shape[axis]
        if missing > 0:
            pad = [(0, 0)] * 3
            pad[axis] = (missing // 2, missing - missing // 2)
            image = np.pad(image, pad)
    top, left = (round((image.shape[axis] - side) / 2) for axis, side in enumerate(size))
    return image[top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class EvalTransform:
    """timm's evaluation transform up to normalisation: resize by the crop ratio, centre crop.

    Attributes:
        size: `(height, width)` of the model's images.
        channels: 1 or 3.
        crop_pct: the crop's share of the resized image.
        interpolation: `"bicubic"` or `"bilinear"`, antialiased.
    """

    size: Size
    channels: int = 3
    crop_pct: float = 0.9
    interpolation: str = "bicubic"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 `[h, w, c]` to uint8 `[H, W, channels]`."""
        height, width = resized_size(*image.shape[:2], self.size, self.crop_pct)
        picture = _to_pil(image, self.channels).resize((width, height), _filter(self.interpolation))
        return np.ascontiguousarray(centre_crop(_to_array(picture), self.size))


@dataclass(frozen=True)
class TrainTransform:
    """Random views for training.

    Attributes:
        size, channels, interpolation: as in `EvalTransform`.
        mode: `"crop"`, a random part of the image resized (Inception's crop), then flipped half of the time; or
            `"shift"`, the whole image moved by a few pixels, for small pictures whose orientation means something.
        shift: the largest move of `"shift"`, in pixels of the result; what comes in from outside is black.
        scale, ratio: of `"crop"`, the range of its area (relative) and of its width over height.
        flip: of `"crop"`, the probability of a horizontal flip.
    """

    size: Size
    channels: int = 3
    interpolation: str = "bicubic"
    mode: str = "crop"
    shift: int = 1
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a mode that does not exist."""
        if self.mode not in ("crop", "shift"):
            raise unknown("augmentation", self.mode, ("crop", "shift"))
        _filter(self.interpolation)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 `[h, w, c]` to uint8 `[H, W, channels]`; every choice is drawn from `rng`."""
        picture = _to_pil(image, self.channels)
        height, width = self.size
        if self.mode == "shift":
            resized = _to_array(picture.resize((width, height), _filter(self.interpolation)))
            return shifted(resized, *rng.integers(-self.shift, self.shift + 1, 2))
        box = self._crop_box(picture.height, picture.width, rng)
        out = _to_array(picture.resize((width, height), _filter(self.interpolation), box=box))
        return np.ascontiguousarray(out[:, ::-1] if rng.random() < self.flip else out)

    def _crop_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """`(left, top, right, bottom)`: ten tries at a random area and ratio, else the largest centred one."""
        log_ratio = np.log(self.ratio)
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(*log_ratio))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                return int(left), int(top), int(left) + w, int(top) + h
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        top, left = (height - h) // 2, (width - w) // 2
        return left, top, left + w, top + h


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """`[H, W, C]` moved down and right (up and left if negative), black where nothing comes in."""
    out = np.zeros_like(image)
    height, width = image.shape[:2]
    out[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return out
