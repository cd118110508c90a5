"""The files of a run: `config.json`, `metrics.jsonl`, `summary.json`, `curves.png` and the directory `checkpoints/`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from flax import traverse_util

from tcvit_jax import atomic, schema
from tcvit_jax.errors import InputError, cannot_read, invalid
from tcvit_jax.files import check_regular

_CHECKPOINTS = "checkpoints"
OUTPUTS = ("summary.json", "curves.png", "nonfinite.json")


class _Line(TypedDict):
    step: schema.Count


class _Summary(TypedDict):
    train_images_per_second: NotRequired[schema.NotNegative | None]


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
        line_schema: The type of a line of the log, in addition to its `step`.
        outputs: The names of further files that will be written.

    Raises:
        InputError: The directory cannot be created, holds another run (the message names the first key that differs),
            or has an entry that is no regular file where one will be read or written.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        is_writer: bool = True,
        flag: str = "--config.workdir",
        resumable_keys: Container[str] = ("workdir",),
        normalize: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        line_schema: Any = dict[str, schema.Number | None],
        outputs: Collection[str] = OUTPUTS,
    ) -> None:
        self.path, self._is_writer, self._line_schema = Path(path), is_writer, line_schema
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise invalid(
                path, f"cannot create the directory ({error.strerror})", f"set {flag}=PATH to another directory"
            ) from error
        file = self.path / "config.json"
        config = _as_json(config)
        # Now, and not after hours of training.
        for name in (file.name, self.metrics.name, *outputs):
            if os.path.lexists(self.path / name):
                check_regular(self.path / name)
        if os.path.lexists(self.path / _CHECKPOINTS) and not (self.path / _CHECKPOINTS).is_dir():
            raise cannot_read(self.path / _CHECKPOINTS, "expected a directory")
        if self._has_progress():
            if not file.is_file():
                hint = f"set {flag}=PATH to another directory, or remove this one"
                raise cannot_read(file, "not found, so the configuration of the run is not known", hint)
            saved = schema.read_json(file, dict[str, Any])
            try:
                previous: dict[str, Any] = traverse_util.flatten_dict(_as_json(normalize(saved)), sep=".")
            except InputError as error:
                raise cannot_read(file, str(error)) from error
            current: dict[str, Any] = traverse_util.flatten_dict(config, sep=".")
            for key in sorted({*previous, *current}):
                if key not in resumable_keys and previous.get(key) != current.get(key):
                    raise invalid(
                        self.path,
                        f"holds a run with {key}={previous.get(key)!r}, not {current.get(key)!r}",
                        f"set {flag}=PATH to another directory, or remove this one",
                    )
        self._config = config

    def write_config(self) -> None:
        """Write `config.json`. A run does so when all checks have passed, so that a refused start changes nothing."""
        self._write_json("config.json", self._config)

    def _has_progress(self) -> bool:
        """Return whether anything was logged or saved, so that there is a run to protect."""
        has_log = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return has_log or any(path.name[:1] in "0123456789" for path in (self.path / _CHECKPOINTS).glob("*"))

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
            InputError: A complete line is damaged.
        """
        if not os.path.lexists(self.metrics):
            return []
        texts = schema.read_limited(self.metrics).split("\n")
        # A line that is complete ends with a newline.
        last = texts.pop()
        lines = [self._parse_line(number, text) for number, text in enumerate(texts, 1)]
        if last:
            with suppress(InputError):
                lines.append(self._parse_line(len(texts) + 1, last))
        return lines

    def _parse_line(self, number: int, text: str) -> dict[str, Any]:
        subject = f"{self.metrics} line {number}"
        try:
            line = schema.parse(text, subject, self._line_schema)
            return cast("dict[str, Any]", schema.check(line, subject, _Line))
        except InputError as error:
            problem = str(error).removeprefix(f"{subject}: ")
            raise invalid(subject, f"expected a JSON object with a step, got {text[:60]!r}: {problem}") from error

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
        """Return the content of `summary.json`, or an empty dict before it is written.

        Raises:
            InputError: The file is damaged.
        """
        file = self.path / "summary.json"
        return schema.read_json(file, _Summary) if os.path.lexists(file) else {}  # pyright: ignore[reportReturnType]

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
