"""Checks of sizes that several parts of a model share; each names the first value that is wrong."""

from __future__ import annotations

from tcvit_jax.errors import InputError


def check_positive(**values: float) -> None:
    """Raise an `InputError` unless every value is positive."""
    for key, value in values.items():
        if not value > 0:
            raise InputError(f"{key}={value} is not positive")


def check_count(**values: int) -> None:
    """Raise an `InputError` unless every value is 0 or more."""
    for key, value in values.items():
        if value < 0:
            raise InputError(f"{key}={value} is negative: 0 is none")


def check_drop_rate(**values: float) -> None:
    """Raise an `InputError` unless every value can be the probability that something is dropped."""
    for key, value in values.items():
        if not 0 <= value < 1:
            raise InputError(f"{key}={value} is not in [0, 1)")


def check_multiple(key: str, value: int, factor_key: str, factor: int) -> None:
    """Raise an `InputError` unless `value` is a positive multiple of `factor`, which is positive."""
    if value % factor or value <= 0:
        nearest = max(factor, round(value / factor) * factor)
        raise InputError(f"{key}={value} is not a multiple of {factor_key}={factor}: use {nearest}")
