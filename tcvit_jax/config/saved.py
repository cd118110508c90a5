"""Configurations that runs and checkpoints hold, perhaps of an older version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tcvit_jax.config import checks
from tcvit_jax.config.configuration import DEFAULTS, Config, flat
from tcvit_jax.config.model import REDUCER_PREFIX, reducer_from_values
from tcvit_jax.errors import InputError


def restore(values: Mapping[str, Any], version: str | None = None) -> Config:
    """Return the configuration that `Config.to_mapping` wrote, of this version or an earlier one.

    Keys that it was saved without take their defaults. Keys that were set without effect, which earlier versions
    allowed, are set back to them.

    Args:
        values: nested plain values.
        version: of the package that wrote them; None where they do not say.

    Raises:
        InputError: a key or a value that this version does not know; one line with the version that wrote it.
    """
    try:
        return Config.from_values(_with_effect(flat(values)))
    except InputError as error:
        writer = f"tcvit_jax {version}" if version else "an earlier version of tcvit_jax"
        raise InputError(f"the configuration was written by {writer}, and this one cannot use it: {error}") from error


def canonicalize(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration as `restore(values).to_mapping()` has it, to compare it with another one."""
    return restore(values).to_mapping()


def _with_effect(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` by key, without those that have no effect."""
    full: dict[str, Any] = {**DEFAULTS, **values}
    # Setting one key back can leave another without effect.
    while idle := [key for key, _ in checks.unread(full, DEFAULTS, reducer_from_values(full))]:
        # The fields of a reducer go with it.
        full = {
            key: value
            for key, value in full.items()
            if key not in idle and not ("reducer.name" in idle and key.startswith(REDUCER_PREFIX))
        }
        full = {**DEFAULTS, **full}
    return full
