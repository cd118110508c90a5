"""The operations of RandAugment and of color jitter, on Pillow images.

Names are timm's, without the endings that tell its variants apart; so are the arguments, so that a drawn operation can
be compared with timm's pixel for pixel.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageOps

from tcvit_jax.errors import unknown

RESAMPLING_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SOLARIZE_ADD_BELOW = 128


@dataclass(frozen=True)
class Operation:
    """One operation, with everything about it decided.

    Attributes:
        name: one of `NAMES`.
        argument: nothing for `AutoContrast`, `Equalize` and `Invert`; degrees against the clock for `Rotate`; the bits
            that `Posterize` keeps; the least level that `Solarize` inverts; what `SolarizeAdd` adds to levels below
            128; the factor of `Color`, `Contrast`, `Brightness` and `Sharpness`, of which 1 changes nothing; for
            `ShearX` and `ShearY` by how many pixels each next row or column is read further on; for `TranslateX` and
            `TranslateY` the share of the width or height by which all are.
        resampling: `"bicubic"` or `"bilinear"`, of those that move pixels.

    Raises:
        InputError: an unknown name or resampling, at construction.
    """

    name: str
    argument: float = 0.0
    resampling: str = "bicubic"

    def __post_init__(self) -> None:
        """Checks the names now, since a worker process would report them late."""
        if self.name not in NAMES:
            raise unknown("image operation", self.name, NAMES)
        if self.resampling not in RESAMPLING_FILTERS:
            raise unknown("interpolation", self.resampling, RESAMPLING_FILTERS)


def apply(image: Image.Image, operations: Iterable[Operation], fill: tuple[int, ...]) -> Image.Image:
    """Applies operations in order.

    Args:
        image: of mode `"RGB"` or `"L"`.
        operations: what to do.
        fill: the color, one level per channel, of pixels that come from outside of the image.
    """
    for operation in operations:
        image = _apply(image, operation, fill)
    return image


def fill_color(mean: tuple[float, ...], channels: int) -> tuple[int, ...]:
    """The levels of a mean color of 1 or 3 numbers in 0..1: timm's rounding, and ITU-R 601 from color to gray."""
    levels = tuple(min(255, round(255 * value)) for value in mean)
    if len(levels) == channels:
        return levels
    if channels == 3:
        return levels * 3
    return tuple(Image.new("RGB", (1, 1), levels).convert("L").tobytes())


def _apply(image: Image.Image, operation: Operation, fill: tuple[int, ...]) -> Image.Image:
    name, argument = operation.name, operation.argument
    if name in _BY_LEVEL:
        return _BY_LEVEL[name](image, argument)
    resampling = RESAMPLING_FILTERS[operation.resampling]
    if name == "Rotate":
        return image.rotate(argument, resampling, fillcolor=fill)
    matrix = _BY_MATRIX[name](argument, image.width, image.height)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=fill)


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    # Not Pillow's own: version 13 refuses to keep no bits, the black image of the strongest magnitude.
    step = 2 ** (8 - min(8, int(bits)))
    return image.point([level - level % step for level in range(256)] * len(image.getbands()))


def _solarize_add(image: Image.Image, added: float) -> Image.Image:
    table = [min(255, level + int(added)) if level < _SOLARIZE_ADD_BELOW else level for level in range(256)]
    return image.point(table * len(image.getbands()))


# What changes levels and leaves pixels where they are.
_BY_LEVEL: dict[str, Callable[[Image.Image, float], Image.Image]] = {
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

# From where in the image, (a x + b y + c, d x + e y + f), each pixel (x, y) of the result comes.
_BY_MATRIX: dict[str, Callable[[float, int, int], tuple[float, ...]]] = {
    "ShearX": lambda slope, width, height: (1, slope, 0, 0, 1, 0),
    "ShearY": lambda slope, width, height: (1, 0, 0, slope, 1, 0),
    "TranslateX": lambda share, width, height: (1, 0, share * width, 0, 1, 0),
    "TranslateY": lambda share, width, height: (1, 0, 0, 0, 1, share * height),
}

NAMES = (*_BY_LEVEL, "Rotate", *_BY_MATRIX)
