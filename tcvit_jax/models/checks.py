"""Range checks that several parts of a model share. Each error names the first invalid argument."""

from __future__ import annotations

from tcvit_jax.errors import out_of_range


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
        InputError: A value is outside of [0, 1).
    """
    for key, value in values.items():
        if not 0 <= value < 1:
            raise out_of_range(key, value, "in [0, 1)")


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
