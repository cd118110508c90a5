"""The files of a run: `config.json`, `metrics.jsonl`, `summary.json`, `curves.png` and the directory `checkpoints/`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from tcvit_jax import atomic
from tcvit_jax.errors import cannot_read, invalid


class RunDirectory:
    """The directory of one run.

    Opening it again with the same configuration resumes the run; another configuration is an error.

    Args:
        path: The directory, which is created if it does not exist.
        config: The configuration of the run, as nested values.
        is_writer: Whether this process writes files; False on all processes but the first.
        flag: The command-line flag that sets the directory, for error messages.
        resumable_keys: The configuration keys that may differ from those of the existing run.
        normalize: A function that converts the configuration of a run from an earlier version to the current format.

    Raises:
        InputError: The directory cannot be created, or holds another run. The message names the first key that differs.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        is_writer: bool = True,
        flag: str = "--config.workdir",
        resumable_keys: Container[str] = ("workdir",),
        normalize: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self.path, self._is_writer = Path(path), is_writer
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise invalid(
                path, f"cannot create the directory ({error.strerror})", f"set {flag}=PATH to another directory"
            ) from error
        file = self.path / "config.json"
        config = _as_json(config)
        if file.is_file() and self._has_progress():
            previous: dict[str, Any] = traverse_util.flatten_dict(_as_json(normalize(_read_json(file))), sep=".")
            current: dict[str, Any] = traverse_util.flatten_dict(config, sep=".")
            for key in sorted({*previous, *current}):
                if key not in resumable_keys and previous.get(key) != current.get(key):
                    raise invalid(
                        self.path,
                        f"holds a run with {key}={previous.get(key)!r}, not {current.get(key)!r}",
                        f"set {flag}=PATH to another directory, or remove this one",
                    )
        self._write_json("config.json", config)

    def _has_progress(self) -> bool:
        """Return whether anything was logged or saved, so that there is a run to protect."""
        has_log = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return has_log or any(path.name.isdigit() for path in (self.path / "checkpoints").glob("*"))

    @property
    def metrics(self) -> Path:
        """The log file: one JSON object per line, each with its `step`."""
        return self.path / "metrics.jsonl"

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line to the log.

        Args:
            step: The training step.
            values: The metrics by name; values that are not finite are written as null.
        """
        if not self._is_writer:
            return
        with atomic.write_errors(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **_replace_nonfinite(values)}) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of the log, without an incomplete last line of a killed run.

        Raises:
            InputError: A line before the last one is damaged.
        """
        if not self.metrics.is_file():
            return []
        lines: list[dict[str, Any]] = []
        texts = self.metrics.read_text().splitlines()
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
                line["step"]
            except (ValueError, KeyError, TypeError) as error:
                if number == len(texts):
                    break
                raise invalid(
                    f"{self.metrics} line {number}", f"expected a JSON object with a step, got {text[:60]!r}"
                ) from error
            lines.append(line)
        return lines

    def truncate_after(self, step: int, evaluation: bool = False) -> None:
        """Remove the log lines after a checkpoint, whose steps an interrupted run takes again.

        Args:
            step: The step of the checkpoint.
            evaluation: Whether to remove the evaluation of that step as well, because it is repeated.
        """
        if not self._is_writer:
            return

        def is_kept(line: Mapping[str, Any]) -> bool:
            is_repeated = evaluation and line["step"] == step and any(key.startswith("val_") for key in line)
            return line["step"] <= step and not is_repeated

        lines = [line for line in self.history() if is_kept(line)]
        atomic.write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in lines))

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`, or an empty dict before it is written."""
        file = self.path / "summary.json"
        return _read_json(file) if file.is_file() else {}

    def write_summary(self, values: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        self._write_json("summary.json", _replace_nonfinite(values))

    def write_nonfinite_step(self, values: Mapping[str, Any]) -> Path:
        """Write the images and losses of a step whose loss or gradient is not finite, and return the file."""
        file = self.path / "nonfinite.json"
        self._write_json(file.name, _replace_nonfinite(values))
        return file

    def _write_json(self, name: str, values: Any) -> None:
        if self._is_writer:
            atomic.write_json(self.path / name, values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise cannot_read(path, f"invalid JSON ({error})") from error


def _replace_nonfinite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with None for NaN and infinities, which JSON cannot represent."""
    return {key: _null_if_nonfinite(value) for key, value in values.items()}


def _null_if_nonfinite(value: Any) -> Any:
    if isinstance(value, list):
        return [_null_if_nonfinite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` as they are read back from JSON, with lists for tuples."""
    return json.loads(json.dumps(values))
