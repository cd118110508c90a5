"""The configuration of a run, and its conversion to and from the nested values in files and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, cast

from flax import traverse_util

from tcvit_jax import presets, reducers
from tcvit_jax.config import checks
from tcvit_jax.config.fields import Section
from tcvit_jax.config.model import REDUCER_PREFIX, Model, Reduction
from tcvit_jax.config.sections import Data, Distillation, Mesh, Mixing, Optimizer, ReductionWarmup, Run
from tcvit_jax.errors import renamed, unknown


@dataclass(frozen=True)
class Config:
    """Configuration of a run, section by section.

    Attributes:
        model: The architecture and its initial weights.
        reduction: The reducer and its schedule.
        reduction_warmup: The warm-up of the reduction.
        data: The dataset and its preprocessing.
        mixing: Mixup, CutMix and the labels.
        distill: The teacher and the distillation loss.
        optimizer: The optimizer and its learning rate schedule.
        mesh: The device mesh.
        run: Batch sizes, length and logging of the run.

    Raises:
        InputError: Sections are inconsistent, or a key is set but has no effect.
    """

    model: Model = field(default_factory=Model)
    reduction: Reduction = field(default_factory=Reduction)
    reduction_warmup: ReductionWarmup = field(default_factory=ReductionWarmup)
    data: Data = field(default_factory=Data)
    mixing: Mixing = field(default_factory=Mixing)
    distill: Distillation = field(default_factory=Distillation)
    optimizer: Optimizer = field(default_factory=Optimizer)
    mesh: Mesh = field(default_factory=Mesh)
    run: Run = field(default_factory=Run)

    # Keys that may change when a run resumes: its directories and devices. Training is the same except for rounding.
    RESUMABLE_KEYS: ClassVar[tuple[str, ...]] = (
        "workdir", "mesh.data", "mesh.model", "data.dir", "data.workers", "data.verify", "accumulate",
        "eval_batch_size", "checkpoint_every",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check sections against each other."""
        checks.check(self.values(), DEFAULTS, self.reduction.reducer)

    def values(self) -> dict[str, Any]:
        """Return the value of every key, such as `"data.name"`."""
        return {key: value for section in self._sections() for key, value in section.values().items()}

    def _sections(self) -> tuple[Section, ...]:
        return tuple(getattr(self, each.name) for each in fields(self))

    def to_mapping(self) -> dict[str, Any]:
        """Return plain nested values, `{"data": {"name": ...}, "seed": 0, ...}`; `from_mapping` is the inverse."""
        return unflatten(self.values())

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from nested values; missing keys take their defaults.

        Args:
            values: Nested values, such as `{"data": {"name": "digits"}, "seed": 0}`.

        Returns:
            The configuration.

        Raises:
            InputError: A key is unknown, a value is invalid, or sections are inconsistent.
        """
        return cls.from_values(flatten(values))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from values by key, such as `{"data.name": "digits"}`; see `from_mapping`."""
        return cls(**make_sections(values))

    def updated(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy of the configuration with changed values.

        If two changes exclude each other, the last one wins: a schedule replaces a budget, and a budget replaces a
        schedule. A new `reducer.name` resets the reducer's fields to its defaults, and `"none"` also removes the
        schedule.

        Args:
            changes: Values by key, such as `{"reducer.alpha": 0.2, "schedule": 8}`.

        Returns:
            The new configuration.

        Raises:
            InputError: As for `from_mapping`.
        """
        return type(self).from_values(apply_changes(self.values(), changes))


def make_sections(values: Mapping[str, Any]) -> dict[str, Any]:
    """Make all sections of a configuration, without the checks between them.

    Args:
        values: Values by key; missing keys take their defaults.

    Returns:
        The sections by name, as in `SECTIONS`.

    Raises:
        InputError: A key is unknown, or a value is of the wrong type or out of range.
    """
    check_renamed(values)
    parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, value in values.items():
        section = "reduction" if key.startswith(REDUCER_PREFIX) else SECTION_OF_KEY.get(key)
        if section is None:
            raise unknown("config key", key, SECTION_OF_KEY)
        parts[section][key] = value
    return {name: section.from_values(parts[name]) for name, section in SECTIONS.items()}


def apply_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply changes in order, as in `Config.updated`.

    Args:
        values: The value of every key.
        changes: Values by key.

    Returns:
        The new value of every key, not yet checked.

    Raises:
        InputError: A key is unknown.
    """
    check_renamed(changes)
    values = dict(values)
    for key, value in changes.items():
        valid_keys = SECTION_OF_KEY.keys() | values.keys()
        if key not in valid_keys:
            raise unknown("config key", key, valid_keys)
        values = {other: current for other, current in values.items() if not replaces(key, value, other)}
        values |= _reduction_of(value) if key == "reducer.name" else {key: value}
    return values


def replaces(key: str, value: Any, other: str) -> bool:
    """Return whether setting `key` to `value` resets the key `other` to its default."""
    if key == "reducer.name":
        is_schedule_key = other in ("schedule", "gmacs", "schedule_family") or other.startswith("reduction_warmup.")
        return other.startswith(REDUCER_PREFIX) or (value == "none" and is_schedule_key)
    return (key == "schedule" and other in ("gmacs", "schedule_family")) or (
        key == "gmacs" and value and other == "schedule"
    )


def check_renamed(keys: Iterable[str]) -> None:
    """Raise `InputError` for the first former key, with its new name."""
    for key in keys:
        section, dot, name = key.partition(".")
        new = RENAMED_KEYS.get(key) or (RENAMED_KEYS[section] + dot + name if section in RENAMED_KEYS else None)
        if new is not None:
            raise renamed("config key", key, new)


def _reduction_of(name: str) -> dict[str, Any]:
    """Return the keys that `reducer.name` sets: the fields of the reducer, and the schedule family of a preset."""
    preset = presets.find(name)
    reducer = reducers.from_config({"name": name}) if preset is None else preset.reducer
    fields = {REDUCER_PREFIX + field: value for field, value in reducers.to_config(reducer).items()}
    return fields if preset is None else {**fields, "schedule_family": preset.schedule_family}


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by key, such as `{"data.name": ...}`."""
    return cast("Any", traverse_util).flatten_dict(dict(values), sep=".")


def unflatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by key as nested dictionaries, the inverse of `flatten`."""
    return cast("Any", traverse_util).unflatten_dict(dict(values), sep=".")


# Former keys and sections, with their new names.
RENAMED_KEYS: Mapping[str, str] = {
    "shape": "schedule_family",
    "warmdown": "reduction_warmup",
    "reducer.renormalise": "reducer.renormalize",
}
SECTIONS: Mapping[str, type[Section]] = {
    "model": Model, "reduction": Reduction, "reduction_warmup": ReductionWarmup, "data": Data, "mixing": Mixing,
    "distill": Distillation, "optimizer": Optimizer, "mesh": Mesh, "run": Run,
}  # fmt: skip
# The section and the default of every key.
SECTION_OF_KEY: Mapping[str, str] = {key: name for name, section in SECTIONS.items() for key in section().values()}
DEFAULTS: Mapping[str, Any] = {key: value for section in SECTIONS.values() for key, value in section().values().items()}
# The keys whose values are paths.
PATH_KEYS = frozenset(key for section in SECTIONS.values() for key in section.path_keys())
# A valid value of every key except the fields of reducers; none of them is None.
EXAMPLES: Mapping[str, Any] = {key: value for section in SECTIONS.values() for key, value in section.examples().items()}
