"""Persistent store of measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tcvit_jax.report.rundir import RunDirectory


class Store:
    """The measurements of one benchmark by name, stored in a directory with the settings of the benchmark."""

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Open or create a directory.

        Args:
            path: The directory.
            settings: The settings of the benchmark, as plain values for JSON.

        Raises:
            InputError: The directory holds a benchmark with other settings; the message names the first difference.
        """
        self._run = RunDirectory(path, settings, flag="--out")
        lines = self._run.history()
        # A killed process may leave an incomplete last line, which is removed.
        self._run.truncate_after(len(lines))
        self._measurements = {line["unit"]: line["values"] for line in lines}

    @property
    def path(self) -> Path:
        """The directory."""
        return self._run.path

    def get(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a stored measurement, or make and store it.

        Args:
            name: The name of the measurement.
            measure: A function that makes the measurement; it is called only if the store does not have it.

        Returns:
            The values of the measurement.
        """
        if name not in self._measurements:
            values = measure()
            self._run.log(len(self._measurements), {"unit": name, "values": values})
            self._measurements[name] = values
        return self._measurements[name]
