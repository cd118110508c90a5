"""Range checks that several parts of a model share. Each error names the first invalid argument."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

from tcvit_jax.errors import check_range, invalid, kind_of, out_of_range, unknown


def check_keys(subject: str, values: object, names: Collection[str], optional: Collection[str] = ()) -> None:
    """Check that a value, such as one read from a file, is a mapping with exactly these keys.

    Args:
        subject: What the value is, for error messages.
        values: The value.
        names: The keys.
        optional: Keys that may be missing.

    Raises:
        InputError: The value is not a mapping, or a key is missing or unknown. The message names the first one.
    """
    if not isinstance(values, Mapping):
        raise invalid(subject, f"expected a mapping with {', '.join(names)}, got {kind_of(values)}")
    for name in names:
        if name not in values:
            raise invalid(f"{subject}.{name}", "not found")
    for key in cast("Mapping[object, object]", values):
        if key not in names and key not in optional:
            raise unknown(f"{subject} key", key, (*names, *optional))


def check_positive(**values: float) -> None:
    """Check that every value is positive.

    Args:
        **values: Values by argument name.

    Raises:
        InputError: A value is not positive.
    """
    for key, value in values.items():
        if not value > 0:
            raise out_of_range(key, value, "> 0")


def check_count(**values: int) -> None:
    """Check that no value is negative.

    Args:
        **values: Values by argument name.

    Raises:
        InputError: A value is negative.
    """
    for key, value in values.items():
        if value < 0:
            raise out_of_range(key, value, ">= 0")


def check_drop_rate(**values: float) -> None:
    """Check that every value is a drop probability, at least 0 and less than 1.

    Args:
        **values: Values by argument name.

    Raises:
        InputError: A value is not a number in [0, 1).
    """
    for key, value in values.items():
        check_range(key, value, 0, 1, excludes_high=True)


def check_norm_eps(norm_eps: float) -> None:
    """Check the epsilon of the norms.

    Raises:
        InputError: `norm_eps` is not in [1e-12, 1]. With less, a token of equal features would become NaN in float32.
    """
    check_range("norm_eps", norm_eps, 1e-12, 1)


def check_multiple(key: str, value: int, factor_key: str, factor: int) -> None:
    """Check that a value is a positive multiple of another one.

    Args:
        key: Name of the value.
        value: Value to check.
        factor_key: Name of the factor.
        factor: Positive number that must divide `value`.

    Raises:
        InputError: `value` is not a positive multiple of `factor`. The message names the nearest one.
    """
    if value % factor or value <= 0:
        nearest = max(factor, round(value / factor) * factor)
        raise out_of_range(key, value, f"a positive multiple of {factor_key}={factor}", f"use {nearest}")
