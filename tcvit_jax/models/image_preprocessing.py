"""Image preprocessing of pretrained weights."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from tcvit_jax.errors import out_of_range, unknown
from tcvit_jax.models.checks import check_keys

INTERPOLATIONS = ("bicubic", "bilinear")
CROP_MODES = ("center", "squash")
CROP_ROUNDINGS = ("even", "floor")
# Larger images do not fit in memory.
MAX_RESIZE = 16_384
# Attributes that checkpoints of earlier versions do not have.
_OPTIONAL = ("resize", "crop_rounding")


@dataclass(frozen=True)
class Preprocessing:
    """Image preprocessing of pretrained weights at the `img_size` of the model, as in timm or in transformers.

    Attributes:
        mean: Mean per channel of images in [0, 1].
        std: Standard deviation per channel of images in [0, 1], at least 0.001.
        crop_pct: Fraction of each side of the resized image that the crop keeps, in [0.1, 10]; above 1 the image is
            zero-padded.
        interpolation: `"bicubic"` or `"bilinear"`.
        crop_mode: `"center"` keeps the aspect ratio and crops, `"squash"` resizes both sides.
        resize: Length in pixels of the shorter side, or with `"squash"` of both sides, before the crop, for sizes that
            `floor(img_size / crop_pct)` does not give. It takes the place of `crop_pct`; None for `crop_pct`.
        crop_rounding: Rounding of the offset of the crop: `"even"` rounds half to even, as timm, `"floor"` rounds down,
            as transformers.

    Raises:
        InputError: A value is of the wrong type or out of range, at construction.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    resize: int | None = None
    crop_rounding: str = "even"

    def __post_init__(self) -> None:
        check_preprocessing(vars(self))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Create an instance from the result of `dataclasses.asdict`, also after a round trip through JSON.

        Args:
            values: The value of every attribute. `resize` and `crop_rounding` may be missing.

        Raises:
            InputError: A key is missing or unknown, or a value is of the wrong type or out of range. The message names
                the key, such as `preprocessing.std`.
        """
        names = [field.name for field in fields(cls) if field.name not in _OPTIONAL]
        check_keys("preprocessing", values, names, _OPTIONAL)
        check_preprocessing(values, "preprocessing.")
        return cls(**values)

    @property
    def geometry(self) -> tuple[float, str, str, int | None, str]:
        """The arguments of `EvalTransform` after the size and the channels."""
        return self.crop_pct, self.interpolation, self.crop_mode, self.resize, self.crop_rounding

    def check_channels(self, in_chans: int, prefix: str = "") -> None:
        """Check that there is one mean and one standard deviation per channel.

        Args:
            in_chans: The number of channels of a model.
            prefix: The prefix of the names in error messages, such as `"data."`.

        Raises:
            InputError: The number of values differs.
        """
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != in_chans:
                raise out_of_range(
                    f"{prefix}{name}", values, "one value per channel", f"the model has in_chans={in_chans}"
                )

    def at_other_size(self) -> Preprocessing:
        """Return a copy for another `img_size`, without the length in pixels that was meant for the original one."""
        return replace(self, resize=None)

    def crop(self, pct: float) -> Preprocessing:
        """Return a copy with another `crop_pct`."""
        return replace(self, crop_pct=pct)

    def squash(self, pct: float) -> Preprocessing:
        """Return a copy that resizes both sides to `size / pct` before the crop."""
        return replace(self, crop_pct=pct, crop_mode="squash")


def check_preprocessing(values: Mapping[str, Any], prefix: str = "") -> None:
    """Check values of `Preprocessing`.

    Args:
        values: Values by attribute; missing ones are not checked.
        prefix: The prefix of the names in error messages, such as `"data."`.

    Raises:
        InputError: A value is of the wrong type or out of range. The message names the first one.
    """
    for name, value in values.items():
        if name in _OPTIONS:
            if value not in _OPTIONS[name]:
                raise unknown(f"{prefix}{name}", value, _OPTIONS[name])
        elif name == "crop_pct":
            if not _is_between(value, 0.1, 10):
                raise out_of_range(f"{prefix}{name}", value, "in [0.1, 10]")
        elif name == "resize":
            if value is not None and not (type(value) is int and 1 <= value <= MAX_RESIZE):
                raise out_of_range(f"{prefix}{name}", value, f"None or an integer in [1, {MAX_RESIZE}]")
        else:
            low = {"mean": 0, "std": 0.001}[name]
            is_sequence = isinstance(value, list | tuple)
            channels: Sequence[object] = cast("Sequence[object]", value) if is_sequence else ()
            if not channels or not all(_is_between(channel, low, 1) for channel in channels):
                raise out_of_range(f"{prefix}{name}", cast(object, value), f"one number in [{low}, 1] per channel")


_OPTIONS = {"interpolation": INTERPOLATIONS, "crop_mode": CROP_MODES, "crop_rounding": CROP_ROUNDINGS}


def _is_between(value: object, low: float, high: float) -> bool:
    # In Python, a bool is a number.
    return type(value) is not bool and isinstance(value, numbers.Real) and low <= cast(float, value) <= high
