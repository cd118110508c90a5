"""The files of a run: `config.json`, `metrics.jsonl`, `summary.json`, `curves.png`, and `checkpoints/` beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from flax import traverse_util

from tcvit_jax import atomic
from tcvit_jax.errors import InputError


class RunDirectory:
    """One run's directory. Opening it again with the same configuration continues the run; with another is an error."""

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        write: bool = True,
        flag: str = "--config.workdir",
        free: Container[str] = ("workdir",),
        normalize: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        """Make `path`, or check that the run in it has the same `config`, but for the keys that are `free`.

        `normalize` brings the configuration of a run that an earlier version began to the form of `config`.

        With `write=False`, for the processes that leave files to the first one, nothing is written. `flag` is what the
        user chose the directory with.

        Raises:
            InputError: another run is kept there; names the first key that differs.
        """
        self.path, self._writes = Path(path), write
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot keep a run in {str(path)!r}: {error.strerror}") from error
        file = self.path / "config.json"
        config = _plain(config)
        if file.is_file() and self._holds_something():
            before: dict[str, Any] = traverse_util.flatten_dict(_plain(normalize(_read(file))), sep=".")
            now: dict[str, Any] = traverse_util.flatten_dict(config, sep=".")
            for key in sorted({*before, *now}):
                if key not in free and before.get(key) != now.get(key):
                    raise InputError(
                        f"{str(self.path)!r} holds a run with {key}={before.get(key)!r}, not {now.get(key)!r}: "
                        f"choose another directory with {flag}=PATH, or remove it"
                    )
        self._write("config.json", config)

    def _holds_something(self) -> bool:
        """Whether something was logged or saved; before, there is no run to protect."""
        logged = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return logged or any(path.name.isdigit() for path in (self.path / "checkpoints").glob("*"))

    @property
    def metrics(self) -> Path:
        """The log: one JSON object per line, each with its `step`."""
        return self.path / "metrics.jsonl"

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line to the log."""
        if not self._writes:
            return
        with atomic.write_errors(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps({"step": step, **_finite(values)}) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """The lines of the log; a last one that a kill cut short is left out.

        Raises:
            InputError: a line before the last is damaged.
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
                raise InputError(f"line {number} of {str(self.metrics)!r} is damaged: {text[:60]!r}") from error
            lines.append(line)
        return lines

    def truncate_after(self, step: int, evaluation: bool = False) -> None:
        """Drop what an interrupted run logged beyond its last checkpoint; those steps are taken again.

        With `evaluation`, what was logged of an evaluation of that checkpoint too, which is made again.
        """
        if not self._writes:
            return

        def kept(line: Mapping[str, Any]) -> bool:
            again = evaluation and line["step"] == step and any(key.startswith("val_") for key in line)
            return line["step"] <= step and not again

        lines = [line for line in self.history() if kept(line)]
        atomic.write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in lines))

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; nothing before it is written."""
        file = self.path / "summary.json"
        return _read(file) if file.is_file() else {}

    def write_summary(self, values: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        self._write("summary.json", _finite(values))

    def write_broken_step(self, values: Mapping[str, Any]) -> Path:
        """Write what is known of a step that is not finite, and say where."""
        file = self.path / "nonfinite.json"
        self._write(file.name, _finite(values))
        return file

    def _write(self, name: str, values: Any) -> None:
        if self._writes:
            atomic.write_json(self.path / name, values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{str(path)!r} is damaged: {error}") from error


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what was not measured is null."""
    return {key: _null(value) for key, value in values.items()}


def _null(value: Any) -> Any:
    if isinstance(value, list):
        return [_null(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as JSON gives them back: tuples are lists."""
    return json.loads(json.dumps(values))
