"""Configurations that were saved in runs and checkpoints, possibly by an earlier version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tcvit_jax.config import checks
from tcvit_jax.config.configuration import DEFAULTS, Config, flatten, make_sections
from tcvit_jax.config.model import REDUCER_PREFIX, reducer_from_values
from tcvit_jax.errors import InputError, invalid


def restore(values: Mapping[str, Any], version: str | None = None) -> Config:
    """Restore a configuration from the output of `Config.to_mapping`, of this version or an earlier one.

    Missing keys take their defaults. Keys that were set without effect, which earlier versions allowed, are reset to
    their defaults.

    Args:
        values: Nested values.
        version: The version of the package that wrote them; None if it is not recorded.

    Returns:
        The configuration.

    Raises:
        InputError: This version does not support a key or a value. The message names the version that wrote it.
    """
    try:
        # The sections check the types that `_reset_inactive` relies on.
        sections = make_sections(flatten(values))
        return Config.from_values(
            _reset_inactive({key: v for each in sections.values() for key, v in each.values().items()})
        )
    except InputError as error:
        writer = f"tcvit_jax {version}" if version else "an earlier version of tcvit_jax"
        raise invalid("saved configuration", f"written by {writer}, not valid in this version", str(error)) from error


def canonicalize(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration in the form of this version, to compare it with another one."""
    return restore(values).to_mapping()


def _reset_inactive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reset keys that have no effect to their defaults."""
    full: dict[str, Any] = {**DEFAULTS, **values}
    # Resetting one key can make another one inactive.
    while inactive := [key for key, _ in checks.find_inactive(full, DEFAULTS, reducer_from_values(full))]:
        # The fields of a reducer are reset with its name.
        full = {
            key: value
            for key, value in full.items()
            if key not in inactive and not ("reducer.name" in inactive and key.startswith(REDUCER_PREFIX))
        }
        full = {**DEFAULTS, **full}
    return full
