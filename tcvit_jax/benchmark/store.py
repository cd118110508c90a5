"""Persistent store of measurements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypedDict

from tcvit_jax import schema
from tcvit_jax.benchmark import table
from tcvit_jax.errors import invalid
from tcvit_jax.report.rundir import RunDirectory


class _Line(TypedDict):
    unit: str
    values: dict[str, Any]


# Settings that may change when a benchmark resumes: where the data are, and how they are read.
RESUMABLE_KEYS = ("data.dir", "data.workers", "data.verify")


class Store:
    """The measurements of one benchmark by name, stored in a directory with the settings of the benchmark."""

    def __init__(self, path: str | Path, settings: Mapping[str, Any], outputs: Collection[str] = table.FILES) -> None:
        """Open or create a directory.

        Args:
            path: The directory.
            settings: The settings of the benchmark, as plain values for JSON.
            outputs: The names of the files that the results will be written to.

        Raises:
            InputError: The directory holds a benchmark with other settings (the message names the first difference), or
                its files are damaged.
        """
        self._run = RunDirectory(
            path, settings, flag="--out", resumable_keys=RESUMABLE_KEYS, line_schema=_Line, outputs=outputs
        )
        self._run.write_config()
        lines = self._run.history()
        # A killed process may leave an incomplete last line, which is removed.
        self._run.truncate_after(len(lines))
        self._measurements = {line["unit"]: line["values"] for line in lines}
        self._lines = {line["unit"]: number for number, line in enumerate(lines, 1)}

    @property
    def path(self) -> Path:
        """The directory."""
        return self._run.path

    def get(
        self,
        name: str,
        measure: Callable[[], dict[str, Any]],
        value_schema: Any = dict[str, Any],
        check: Callable[[dict[str, Any]], str | None] = lambda _: None,
    ) -> dict[str, Any]:
        """Return a stored measurement, or make and store it.

        Args:
            name: The name of the measurement.
            measure: A function that makes the measurement; it is called only if the store does not have it.
            value_schema: The type of the values (see `schema`).
            check: A function that returns what is wrong with stored values of the right type, or None.

        Returns:
            The values of the measurement.

        Raises:
            InputError: The stored values are damaged.
        """
        if name in self._lines:
            subject = f"{self._run.metrics} line {self._lines[name]}"
            values = schema.check(self._measurements[name], f"{subject}: values", value_schema)
            if problem := check(values):
                raise invalid(subject, problem, "remove the line to measure it again")
        if name not in self._measurements:
            values = measure()
            self._run.log(len(self._measurements), {"unit": name, "values": values})
            self._measurements[name] = values
        return self._measurements[name]
