"""The whole configuration of a run, and its form as plain nested values, which files and checkpoints hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, cast

from flax import traverse_util

from tcvit_jax import reducers
from tcvit_jax.config import checks
from tcvit_jax.config.fields import Section
from tcvit_jax.config.model import REDUCER_PREFIX, Model, Reduction
from tcvit_jax.config.sections import Data, Distillation, Mesh, Mixing, Optimizer, ReductionWarmup, Run
from tcvit_jax.errors import InputError, renamed, unknown


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from, section by section.

    Raises:
        InputError: sections that do not fit each other, or a key that is set and that nothing reads.
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

    # What may change when a run continues: where it is kept, and its machines. Rounding apart, training is the same.
    RESUMABLE_KEYS: ClassVar[tuple[str, ...]] = (
        "workdir", "mesh.data", "mesh.model", "data.dir", "data.workers", "accumulate", "eval_batch_size",
        "checkpoint_every",
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
        return nested(self.values())

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from nested values; keys that are not there take their defaults.

        Raises:
            InputError: an unknown key (with the nearest), a value that does not fit its key, or sections that do not
                fit each other.
        """
        return cls.from_values(flat(values))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from values by key; see `from_mapping`."""
        parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for key, value in values.items():
            section = "reduction" if key.startswith(REDUCER_PREFIX) else SECTION_OF_KEY.get(key)
            if section is None:
                raise _unknown_key(key, SECTION_OF_KEY)
            parts[section][key] = value
        return cls(
            Model.from_values(parts["model"]), Reduction.from_values(parts["reduction"]),
            ReductionWarmup.from_values(parts["reduction_warmup"]), Data.from_values(parts["data"]),
            Mixing.from_values(parts["mixing"]), Distillation.from_values(parts["distill"]),
            Optimizer.from_values(parts["optimizer"]), Mesh.from_values(parts["mesh"]), Run.from_values(parts["run"]),
        )  # fmt: skip

    def updated(self, changes: Mapping[str, Any]) -> Self:
        """Return the configuration with changes by key, such as `{"reducer.alpha": 0.2, "schedule": 8}`.

        The later of two changes that exclude each other holds: a schedule replaces a budget and a budget a schedule;
        another `reducer.name` starts from that method's own fields, and `"none"` drops the schedule as well.

        Raises:
            InputError: as `from_mapping`.
        """
        return type(self).from_values(apply_changes(self.values(), changes))


def apply_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all keys with changes, as `Config.updated` makes them, unchecked but for unknown keys."""
    values = dict(values)
    for key, value in changes.items():
        known = SECTION_OF_KEY.keys() | values.keys()
        if key not in known:
            raise _unknown_key(key, known)
        values = {each: kept for each, kept in values.items() if not replaces(key, value, each)}
        values |= _with_default_fields(value) if key == "reducer.name" else {key: value}
    return values


def replaces(key: str, value: Any, other: str) -> bool:
    """Return whether setting `key` to `value` sets the key `other` back to its default."""
    if key == "reducer.name":
        is_of_schedule = other in ("schedule", "gmacs", "schedule_family") or other.startswith("reduction_warmup.")
        return other.startswith(REDUCER_PREFIX) or (value == "none" and is_of_schedule)
    return (key == "schedule" and other in ("gmacs", "schedule_family")) or (
        key == "gmacs" and value and other == "schedule"
    )


def _unknown_key(key: str, options: Iterable[str]) -> InputError:
    """Return the error for a key that does not exist; a renamed one is named by its new name."""
    section, dot, name = key.partition(".")
    new = RENAMED_KEYS.get(key) or (RENAMED_KEYS[section] + dot + name if section in RENAMED_KEYS else None)
    return unknown("config key", key, options) if new is None else renamed("config key", key, new)


def _with_default_fields(name: str) -> dict[str, Any]:
    fields_of = reducers.to_config(reducers.from_config({"name": name}))
    return {REDUCER_PREFIX + field: value for field, value in fields_of.items()}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by key, `{"data.name": ...}`."""
    return cast("Any", traverse_util).flatten_dict(dict(values), sep=".")


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by key as nested dicts, the inverse of `flat`."""
    return cast("Any", traverse_util).unflatten_dict(dict(values), sep=".")


# Keys and sections of earlier versions, by their new names.
RENAMED_KEYS: Mapping[str, str] = {
    "shape": "schedule_family",
    "warmdown": "reduction_warmup",
    "reducer.renormalise": "reducer.renormalize",
}
SECTIONS: Mapping[str, type[Section]] = {
    "model": Model, "reduction": Reduction, "reduction_warmup": ReductionWarmup, "data": Data, "mixing": Mixing,
    "distill": Distillation, "optimizer": Optimizer, "mesh": Mesh, "run": Run,
}  # fmt: skip
# The section of every key, and the defaults.
SECTION_OF_KEY: Mapping[str, str] = {key: name for name, section in SECTIONS.items() for key in section().values()}
DEFAULTS: Mapping[str, Any] = {key: value for section in SECTIONS.values() for key, value in section().values().items()}
# A value of every key that is not None, but for the fields of reducers.
EXAMPLES: Mapping[str, Any] = {key: value for section in SECTIONS.values() for key, value in section.examples().items()}
