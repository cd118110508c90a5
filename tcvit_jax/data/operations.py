"""Image operations of RandAugment and color jitter, on Pillow images.

Names and arguments are timm's, so that results can be compared with timm's pixel for pixel; names omit the suffixes
that distinguish timm's variants.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageOps

from tcvit_jax.errors import unknown

RESAMPLING_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SOLARIZE_ADD_THRESHOLD = 128


@dataclass(frozen=True)
class Operation:
    """One image operation with its sampled argument.

    Attributes:
        name: One of `NAMES`.
        argument: Depends on the operation:

            - `AutoContrast`, `Equalize`, `Invert`: Unused.
            - `Rotate`: Degrees, counterclockwise.
            - `Posterize`: Number of bits to keep.
            - `Solarize`: Lowest level to invert.
            - `SolarizeAdd`: Value to add to levels below 128.
            - `Color`, `Contrast`, `Brightness`, `Sharpness`: Factor; 1 leaves the image unchanged.
            - `ShearX`, `ShearY`: Offset in pixels of the source position per row (`ShearX`) or column (`ShearY`).
            - `TranslateX`, `TranslateY`: Offset of the source position, as a fraction of the width or height.
        resampling: `"bicubic"` or `"bilinear"`, for operations that move pixels.

    Raises:
        InputError: Unknown name or resampling, at construction.
    """

    name: str
    argument: float = 0.0
    resampling: str = "bicubic"

    def __post_init__(self) -> None:
        """Validate fields here, because a worker process would report errors late."""
        if self.name not in NAMES:
            raise unknown("image operation", self.name, NAMES)
        if self.resampling not in RESAMPLING_FILTERS:
            raise unknown("interpolation", self.resampling, RESAMPLING_FILTERS)


def apply(image: Image.Image, operations: Iterable[Operation], fill: tuple[int, ...]) -> Image.Image:
    """Apply operations in order.

    Args:
        image: An image of mode `"RGB"` or `"L"`.
        operations: The operations to apply.
        fill: Color of pixels from outside the image, one level per channel.
    """
    for operation in operations:
        image = _apply(image, operation, fill)
    return image


def fill_color(mean: tuple[float, ...], channels: int) -> tuple[int, ...]:
    """Convert a mean color to levels in 0..255, with timm's rounding.

    Args:
        mean: One or three values in [0, 1].
        channels: 3, or 1 for gray. Color is converted to gray by ITU-R 601, and gray to color by repetition.
    """
    levels = tuple(min(255, round(255 * value)) for value in mean)
    if len(levels) == channels:
        return levels
    if channels == 3:
        return levels * 3
    return tuple(Image.new("RGB", (1, 1), levels).convert("L").tobytes())


def _apply(image: Image.Image, operation: Operation, fill: tuple[int, ...]) -> Image.Image:
    name, argument = operation.name, operation.argument
    if name in _LEVEL_OPERATIONS:
        return _LEVEL_OPERATIONS[name](image, argument)
    resampling = RESAMPLING_FILTERS[operation.resampling]
    if name == "Rotate":
        return image.rotate(argument, resampling, fillcolor=fill)
    matrix = _AFFINE_MATRICES[name](argument, image.width, image.height)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=fill)


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    # ImageOps.posterize of Pillow 13 rejects 0 bits, which the strongest magnitude asks for (a black image).
    step = 2 ** (8 - min(8, int(bits)))
    return image.point([level - level % step for level in range(256)] * len(image.getbands()))


def _solarize_add(image: Image.Image, addend: float) -> Image.Image:
    table = [min(255, level + int(addend)) if level < _SOLARIZE_ADD_THRESHOLD else level for level in range(256)]
    return image.point(table * len(image.getbands()))


# Operations that change levels and do not move pixels.
_LEVEL_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
    "Invert": lambda image, _: ImageOps.invert(image),
    "Posterize": _posterize,
    "Solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
    "SolarizeAdd": _solarize_add,
    "Color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "Brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "Sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
}

# Coefficients (a, b, c, d, e, f): pixel (x, y) of the result is read at (a x + b y + c, d x + e y + f).
_AFFINE_MATRICES: dict[str, Callable[[float, int, int], tuple[float, ...]]] = {
    "ShearX": lambda slope, width, height: (1, slope, 0, 0, 1, 0),
    "ShearY": lambda slope, width, height: (1, 0, 0, slope, 1, 0),
    "TranslateX": lambda fraction, width, height: (1, 0, fraction * width, 0, 1, 0),
    "TranslateY": lambda fraction, width, height: (1, 0, 0, 0, 1, fraction * height),
}

NAMES = (*_LEVEL_OPERATIONS, "Rotate", *_AFFINE_MATRICES)
