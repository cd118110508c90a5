"""What has been measured, on disk as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tcvit_jax.report.rundir import RunDirectory


class Store:
    """The units of one benchmark, by name, in a directory that belongs to its settings."""

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Open a directory, or make it.

        Raises:
            InputError: another benchmark is kept there; names the first setting that differs.
        """
        self._run = RunDirectory(path, settings, flag="--out")
        lines = self._run.history()
        # A line that a kill cut short must not be continued.
        self._run.truncate_after(len(lines))
        self._units = {line["unit"]: line["values"] for line in lines}

    @property
    def path(self) -> Path:
        """The directory."""
        return self._run.path

    def get(self, unit: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A unit's values: those that are kept, or what `measure` finds, which is kept from now on."""
        if unit not in self._units:
            values = measure()
            self._run.log(len(self._units), {"unit": unit, "values": values})
            self._units[unit] = values
        return self._units[unit]
