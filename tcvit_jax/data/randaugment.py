"""Which operations an image undergoes: RandAugment and color jitter, as timm draws them.

Drawing and applying are apart: `draw` decides, `tcvit_jax.data.operations.apply` does.

RandAugment (Cubuk et al., https://arxiv.org/abs/1909.13719) is read from timm's names for it, such as
`rand-m9-mstd0.5-inc1`, with which DeiT and most ViTs are trained. Of timm's variants there is the one whose operations
all grow stronger with the magnitude, `inc1`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tcvit_jax.data.operations import RESAMPLING_FILTERS, Operation
from tcvit_jax.errors import InputError, unknown

INTERPOLATIONS = (*RESAMPLING_FILTERS, "random")
EXAMPLE = "rand-m9-mstd0.5-inc1"
_FULL_MAGNITUDE = 10.0
# From this deviation on timm draws magnitudes evenly instead of from a normal distribution.
_EVEN_DEVIATION = 100.0
_PARTS: dict[str, type[int] | type[float]] = {"m": int, "n": int, "p": float, "mstd": float, "mmax": int, "inc": int}


def _factor(magnitude: float, sign: int) -> float:
    return max(0.1, 1.0 + sign * (magnitude / _FULL_MAGNITUDE * 0.9))


def _up_to(most: float) -> Callable[[float, int], float]:
    """From a magnitude to an argument that grows to `most` on either side of zero."""
    return lambda magnitude, sign: sign * (magnitude / _FULL_MAGNITUDE * most)


# The argument of each operation at a magnitude in 0..10 or beyond and a sign; sampling is uniform over the fifteen.
ARGUMENTS: dict[str, Callable[[float, int], float]] = {
    "AutoContrast": lambda magnitude, sign: 0.0,
    "Equalize": lambda magnitude, sign: 0.0,
    "Invert": lambda magnitude, sign: 0.0,
    "Rotate": _up_to(30.0),
    "Posterize": lambda magnitude, sign: 4 - int(magnitude / _FULL_MAGNITUDE * 4),
    "Solarize": lambda magnitude, sign: 256 - min(256, int(magnitude / _FULL_MAGNITUDE * 256)),
    "SolarizeAdd": lambda magnitude, sign: min(128, int(magnitude / _FULL_MAGNITUDE * 110)),
    "Color": _factor,
    "Contrast": _factor,
    "Brightness": _factor,
    "Sharpness": _factor,
    "ShearX": _up_to(0.3),
    "ShearY": _up_to(0.3),
    "TranslateX": _up_to(0.45),
    "TranslateY": _up_to(0.45),
}
_NAMES = tuple(ARGUMENTS)


@dataclass(frozen=True)
class RandAugment:
    """A few operations out of fifteen, each of them done or not, by magnitudes around one.

    Attributes:
        magnitude: the mean of the magnitudes; 10 is strong. Above `most` all are `most`.
        count: how many operations are chosen, with replacement.
        probability: of each that was chosen to be done.
        deviation: the standard deviation of magnitudes; above 100 they spread evenly over 0 to `magnitude`.
        most: magnitudes are clipped to 0..`most`.
        interpolation: `"bicubic"` or `"bilinear"`; `"random"` draws one of them for each operation.

    Raises:
        InputError: a value out of range, at construction.
    """

    magnitude: float = 10
    count: int = 2
    probability: float = 0.5
    deviation: float = 0.0
    most: float = _FULL_MAGNITUDE
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Checks the values now, since a worker process would report them late."""
        for name, least in (("magnitude", 0), ("count", 1), ("deviation", 0), ("most", 1)):
            value = getattr(self, name)
            if not value >= least:
                raise InputError(f"RandAugment's {name} {value} must be {least} or more")
        if not 0 <= self.probability <= 1:
            raise InputError(f"RandAugment's probability {self.probability} must be in 0..1, e.g. 0.5")
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)

    @classmethod
    def parse(cls, config: str, interpolation: str = "bicubic") -> Self:
        """Reads timm's name of a RandAugment: `rand`, then parts in any order, with dashes between.

        Parts are `m` (magnitude, 10), `n` (count, 2), `p` (probability, 0.5), `mstd` (deviation, 0), `mmax` (most, 10),
        and `inc1`, which has to be there.

        Raises:
            InputError: another augmentation, or a part that is unknown, given twice, not a number or out of range.
        """
        kind, *parts = config.split("-")
        if kind != "rand":
            raise InputError(f"auto_augment {config!r} is not a RandAugment, the one kind there is: try {EXAMPLE!r}")
        values: dict[str, float] = {}
        for part in parts:
            key, value = _read_part(config, part)
            if key in values:
                raise InputError(f"auto_augment {config!r} gives {key} twice: leave out {part!r}")
            values[key] = value
        if values.pop("inc", 0) != 1:
            kept = "-".join(part for part in (kind, *parts) if not part.startswith("inc"))
            raise InputError(
                f"auto_augment {config!r} asks for operations that weaken as the magnitude grows, which there are not: "
                f"try {kept + '-inc1'!r}"
            )
        names = {"m": "magnitude", "n": "count", "p": "probability", "mstd": "deviation", "mmax": "most"}
        given: dict[str, Any] = {names[key]: value for key, value in values.items()}
        return cls(**given, interpolation=interpolation)

    def draw(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """The operations for one image; none at all for `(1 - probability) ** count` of them."""
        chosen = (_NAMES[number] for number in rng.integers(len(_NAMES), size=self.count).tolist())
        return tuple(self._decide(name, rng) for name in chosen if rng.random() < self.probability)

    def _decide(self, name: str, rng: np.random.Generator) -> Operation:
        if self.deviation > _EVEN_DEVIATION:
            magnitude = rng.uniform(0, self.magnitude)
        else:
            magnitude = rng.normal(self.magnitude, self.deviation)
        sign = 1 if rng.random() < 0.5 else -1
        argument = ARGUMENTS[name](min(max(magnitude, 0.0), self.most), sign)
        return Operation(name, argument, draw_resampling(self.interpolation, rng))


@dataclass(frozen=True)
class ColorJitter:
    """torchvision's ColorJitter with one strength for brightness, contrast and saturation, and no change of hue.

    Attributes:
        strength: factors are even over `max(0, 1 - strength)` to `1 + strength`.

    Raises:
        InputError: a negative strength, at construction.
    """

    strength: float

    def __post_init__(self) -> None:
        """Checks the value now, since a worker process would report it late."""
        if not self.strength >= 0:
            raise InputError(f"color_jitter {self.strength} must be 0 or more, e.g. 0.4")

    def draw(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """The three operations in a random order; none if the strength is zero."""
        if not self.strength:
            return ()
        names = rng.permutation(["Brightness", "Contrast", "Color"]).tolist()
        factors = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength, size=3).tolist()
        return tuple(Operation(name, factor) for name, factor in zip(names, factors, strict=True))


def draw_resampling(interpolation: str, rng: np.random.Generator) -> str:
    """The name itself, or for `"random"` one of `"bilinear"` and `"bicubic"`, as likely; else nothing is drawn."""
    if interpolation != "random":
        return interpolation
    return "bilinear" if rng.random() < 0.5 else "bicubic"


def _read_part(config: str, part: str) -> tuple[str, float]:
    """A part such as `m9` as its key and its value."""
    found = re.fullmatch(r"([A-Za-z]*)(.*)", part)
    key, digits = found.groups() if found else (part, "")
    if key not in _PARTS:
        raise unknown(f"part of auto_augment {config!r}", part, _PARTS)
    kind = _PARTS[key]
    try:
        return key, kind(digits)
    except ValueError as error:
        number = "whole number" if kind is int else "number"
        raise InputError(
            f"auto_augment {config!r}: {part!r} needs a {number} after {key}, as in {EXAMPLE!r}"
        ) from error
