"""Sampling of RandAugment and color jitter, with timm's distributions.

`draw` samples operations and their arguments; `tcvit_jax.data.operations.apply` applies them.

RandAugment (Cubuk et al., https://arxiv.org/abs/1909.13719) is configured by timm's config strings, such as
`rand-m9-mstd0.5-inc1`, with which DeiT and most ViTs are trained. Of timm's variants only `inc1` is supported, in which
every operation strengthens with the magnitude.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tcvit_jax.data.operations import RESAMPLING_FILTERS, Operation
from tcvit_jax.errors import invalid, out_of_range, requires, unknown

INTERPOLATIONS = (*RESAMPLING_FILTERS, "random")
EXAMPLE = "rand-m9-mstd0.5-inc1"
_MAGNITUDE_SCALE = 10.0
# Above this standard deviation timm draws magnitudes uniformly instead of from a normal distribution.
_UNIFORM_STD = 100.0
_OPTIONS: dict[str, type[int] | type[float]] = {"m": int, "n": int, "p": float, "mstd": float, "mmax": int, "inc": int}


def _factor(magnitude: float, sign: int) -> float:
    return max(0.1, 1.0 + sign * (magnitude / _MAGNITUDE_SCALE * 0.9))


def _symmetric(maximum: float) -> Callable[[float, int], float]:
    """Return a map from a magnitude and a sign to an argument, linear with `sign * maximum` at magnitude 10."""
    return lambda magnitude, sign: sign * (magnitude / _MAGNITUDE_SCALE * maximum)


# Maps from a magnitude (0..10, or above) and a sign to the argument of each operation, which are sampled uniformly.
ARGUMENTS: dict[str, Callable[[float, int], float]] = {
    "AutoContrast": lambda magnitude, sign: 0.0,
    "Equalize": lambda magnitude, sign: 0.0,
    "Invert": lambda magnitude, sign: 0.0,
    "Rotate": _symmetric(30.0),
    "Posterize": lambda magnitude, sign: 4 - int(magnitude / _MAGNITUDE_SCALE * 4),
    "Solarize": lambda magnitude, sign: 256 - min(256, int(magnitude / _MAGNITUDE_SCALE * 256)),
    "SolarizeAdd": lambda magnitude, sign: min(128, int(magnitude / _MAGNITUDE_SCALE * 110)),
    "Color": _factor,
    "Contrast": _factor,
    "Brightness": _factor,
    "Sharpness": _factor,
    "ShearX": _symmetric(0.3),
    "ShearY": _symmetric(0.3),
    "TranslateX": _symmetric(0.45),
    "TranslateY": _symmetric(0.45),
}
_NAMES = tuple(ARGUMENTS)


@dataclass(frozen=True)
class RandAugment:
    """RandAugment: a few operations out of fifteen, each applied with a probability and a random magnitude.

    Attributes:
        magnitude: Mean magnitude; 10 is strong.
        num_ops: Number of operations to sample, with replacement.
        probability: Probability that a sampled operation is applied.
        magnitude_std: Standard deviation of the magnitude; above 100 it is uniform between 0 and `magnitude`.
        max_magnitude: Upper limit; magnitudes are clipped to `[0, max_magnitude]`.
        interpolation: `"bicubic"`, `"bilinear"`, or `"random"`, which samples one of the two for each operation.

    Raises:
        InputError: A value is out of range, at construction.
    """

    magnitude: float = 10
    num_ops: int = 2
    probability: float = 0.5
    magnitude_std: float = 0.0
    max_magnitude: float = _MAGNITUDE_SCALE
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Validate fields here, because a worker process would report errors late."""
        for name, minimum in (("magnitude", 0), ("num_ops", 1), ("magnitude_std", 0), ("max_magnitude", 1)):
            value = getattr(self, name)
            if not value >= minimum:
                raise out_of_range(f"RandAugment.{name}", value, f">= {minimum}")
        if not 0 <= self.probability <= 1:
            raise out_of_range("RandAugment.probability", self.probability, "in [0, 1]", "for example 0.5")
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)

    @classmethod
    def parse(cls, config: str, interpolation: str = "bicubic") -> Self:
        """Parse a config string of timm: `rand` and options in any order, separated by dashes.

        Args:
            config: The config string. Options, with their default values: `m` (`magnitude`, 10), `n` (`num_ops`, 2),
                `p` (`probability`, 0.5), `mstd` (`magnitude_std`, 0), `mmax` (`max_magnitude`, 10), and `inc1`, which
                is required.
            interpolation: `"bicubic"`, `"bilinear"` or `"random"`.

        Raises:
            InputError: The config string is for another augmentation, or an option is unknown, repeated, not a number
                or out of range.
        """
        kind, *options = config.split("-")
        if kind != "rand":
            raise out_of_range("auto_augment", config, "a RandAugment config string", f"for example {EXAMPLE!r}")
        values: dict[str, float] = {}
        for option in options:
            key, value = _parse_option(config, option)
            if key in values:
                raise invalid(f"auto_augment={config!r}", f"option {key!r} is set twice", f"remove {option!r}")
            values[key] = value
        if values.pop("inc", 0) != 1:
            remaining = "-".join(text for text in (kind, *options) if not text.startswith("inc"))
            requirement = "inc1 (every operation strengthens with the magnitude)"
            raise requires(f"auto_augment={config!r}", requirement, f"use {remaining + '-inc1'!r}")
        names = {"m": "magnitude", "n": "num_ops", "p": "probability", "mstd": "magnitude_std", "mmax": "max_magnitude"}
        fields: dict[str, Any] = {names[key]: value for key, value in values.items()}
        return cls(**fields, interpolation=interpolation)

    def draw(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """Sample the operations for one image; none with probability `(1 - probability) ** num_ops`.

        Args:
            rng: The generator to draw from.
        """
        names = (_NAMES[index] for index in rng.integers(len(_NAMES), size=self.num_ops).tolist())
        return tuple(self._draw_operation(name, rng) for name in names if rng.random() < self.probability)

    def _draw_operation(self, name: str, rng: np.random.Generator) -> Operation:
        if self.magnitude_std > _UNIFORM_STD:
            magnitude = rng.uniform(0, self.magnitude)
        else:
            magnitude = rng.normal(self.magnitude, self.magnitude_std)
        sign = 1 if rng.random() < 0.5 else -1
        argument = ARGUMENTS[name](min(max(magnitude, 0.0), self.max_magnitude), sign)
        return Operation(name, argument, draw_resampling(self.interpolation, rng))


@dataclass(frozen=True)
class ColorJitter:
    """torchvision's ColorJitter with the same strength for brightness, contrast and saturation, and a fixed hue.

    Attributes:
        strength: Factors are uniform in `[max(0, 1 - strength), 1 + strength]`.

    Raises:
        InputError: The strength is negative, at construction.
    """

    strength: float

    def __post_init__(self) -> None:
        """Validate fields here, because a worker process would report errors late."""
        if not self.strength >= 0:
            raise out_of_range("color_jitter", self.strength, ">= 0", "for example 0.4")

    def draw(self, rng: np.random.Generator) -> tuple[Operation, ...]:
        """Sample the three operations in random order, or none if the strength is zero.

        Args:
            rng: The generator to draw from.
        """
        if not self.strength:
            return ()
        names = rng.permutation(["Brightness", "Contrast", "Color"]).tolist()
        factors = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength, size=3).tolist()
        return tuple(Operation(name, factor) for name, factor in zip(names, factors, strict=True))


def draw_resampling(interpolation: str, rng: np.random.Generator) -> str:
    """Sample a resampling filter.

    Args:
        interpolation: `"bicubic"`, `"bilinear"` or `"random"`.
        rng: The generator to draw from, which is advanced only for `"random"`.

    Returns:
        `interpolation` itself, or `"bilinear"` or `"bicubic"` with equal probability for `"random"`.
    """
    if interpolation != "random":
        return interpolation
    return "bilinear" if rng.random() < 0.5 else "bicubic"


def _parse_option(config: str, option: str) -> tuple[str, float]:
    """Parse an option such as `m9` into its key and value."""
    match = re.fullmatch(r"([A-Za-z]*)(.*)", option)
    key, digits = match.groups() if match else (option, "")
    if key not in _OPTIONS:
        raise unknown("auto_augment option", option, _OPTIONS)
    kind = _OPTIONS[key]
    try:
        return key, kind(digits)
    except ValueError as error:
        number = "an integer" if kind is int else "a number"
        problem = f"expected {number} after {key!r}, got {option!r}"
        raise invalid(f"auto_augment={config!r}", problem, f"for example {EXAMPLE!r}") from error
