"""Presets: a reducer with its fields and a schedule family, as JSON files that `python -m tcvit_jax.search` writes.

`preset:NAME` and `preset:PATH` name them in command lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from tcvit_jax import atomic, reducers, schema
from tcvit_jax.errors import InputError, cannot_read, unknown
from tcvit_jax.files import expand
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.notation import configs
from tcvit_jax.schedule import SCHEDULE_FAMILIES, budget

# The start of a name in command lines.
PREFIX = "preset:"
# The presets of this package, `NAME.json`.
DIRECTORY = Path(__file__).parent


class _PresetJson(TypedDict):
    reducer: dict[str, Any]
    schedule_family: str
    source: dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """A reducer and a schedule family that a search chose.

    Args:
        name: The name of a preset of this package, or the path of a file such as `runs/search/preset.json`.

    Attributes:
        name: As in the arguments.
        reducer: The reducer with its fields.
        schedule_family: How removals are spread over the blocks, one of `schedule.SCHEDULE_FAMILIES`.
        source: What it was chosen on: `model`, `task`, `objective`, `data`, `split`, `images`, `gmacs` and others.

    Raises:
        InputError: The name is unknown, or the file cannot be read or does not hold a preset.
    """

    name: str
    reducer: Reducer = field(init=False)
    schedule_family: str = field(init=False)
    source: Mapping[str, Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        file = _file(self.name)
        values = schema.read_json(file, _PresetJson)
        try:
            reducer = reducers.from_config({"name": "none", **values["reducer"]})
            if values["schedule_family"] not in SCHEDULE_FAMILIES:
                raise unknown("schedule family", values["schedule_family"], SCHEDULE_FAMILIES)
        except InputError as error:
            raise cannot_read(file, str(error)) from error
        if reducer is None:
            raise cannot_read(file, "expected a reducer, got 'none'")
        object.__setattr__(self, "reducer", reducer)
        object.__setattr__(self, "schedule_family", values["schedule_family"])
        object.__setattr__(self, "source", values["source"])

    def schedule(self, gmacs: float) -> budget:
        """Return the schedule for a budget.

        Args:
            gmacs: The budget in 1e9 multiply-adds per image.
        """
        return budget(gmacs, self.schedule_family)


def list_presets() -> list[str]:
    """Return the names of the presets of this package."""
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


def save(path: str | Path, reducer: Reducer, schedule_family: str, source: Mapping[str, Any]) -> None:
    """Write a preset.

    Args:
        path: The JSON file.
        reducer: The reducer.
        schedule_family: One of `schedule.SCHEDULE_FAMILIES`.
        source: What it was chosen on, as plain values for JSON.

    Raises:
        InputError: The file cannot be written, or the class of the reducer cannot be imported by name.
    """
    values = {"reducer": reducers.to_config(reducer), "schedule_family": schedule_family, "source": dict(source)}
    atomic.write_json(Path(path), values)


def parse(text: str) -> tuple[tuple[Reducer, str], ...]:
    """Return the reducers of a comma-separated list that may have presets, each with its schedule family.

    Args:
        text: A list as for `reducers.parse`, in which `preset:NAME` or `preset:PATH` stands for a preset. Fields in
            parentheses replace those of the preset.

    Returns:
        Each reducer, with the schedule family of the preset, or `"method"` for any other reducer.

    Raises:
        InputError: As for `reducers.parse` and `Preset`.
    """
    if text == "all":
        return tuple((reducer, "method") for reducer in reducers.parse(text))
    methods: list[tuple[Reducer, str]] = []
    for config in configs(text):
        preset = find(config["name"])
        if preset is not None:
            config = {**reducers.to_config(preset.reducer), **_fields(config)}
        family = "method" if preset is None else preset.schedule_family
        methods.append((reducers.from_notation(config, text), family))
    return tuple(methods)


def find(name: object) -> Preset | None:
    """Return the preset of a name in a command line; None if the name does not start with `PREFIX`.

    Raises:
        InputError: As for `Preset`.
    """
    return Preset(name.removeprefix(PREFIX)) if isinstance(name, str) and name.startswith(PREFIX) else None


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "name"}


def _file(name: str) -> Path:
    if name.endswith(".json") or os.sep in name:
        return Path(expand(name, "preset"))
    if name not in list_presets():
        raise unknown("preset", name, [*list_presets(), "PATH.json"])
    return DIRECTORY / f"{name}.json"
