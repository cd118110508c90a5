"""The sections `Model` and `Reduction`, which have keys that are not fields.

Keys that start with the prefix of `Model` may be arguments of `create_model`. Keys that start with `REDUCER_PREFIX` are
the reducer's name and its fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, cast

from tcvit_jax import reducers
from tcvit_jax.config.fields import NOT_NEGATIVE, Section, has_type, key, normalize, wrong_type
from tcvit_jax.errors import unknown
from tcvit_jax.models import LVViT, ViT
from tcvit_jax.models.zoo import OVERRIDE_NAMES
from tcvit_jax.reducers import Reducer
from tcvit_jax.schedule import SCHEDULE_FAMILIES

# The prefix of the keys of a reducer.
REDUCER_PREFIX = "reducer."
# An example of every override, for its type and for errors; the defaults of two of them are None.
_OVERRIDE_EXAMPLES: Mapping[str, Any] = {
    **{each.name: each.default for kind in (LVViT, ViT) for each in fields(kind) if each.name in OVERRIDE_NAMES},
    "fc_norm": True,
    "init_values": 1e-5,
}


def _override_type(name: str) -> Any:
    return int | tuple[int, ...] if name == "img_size" else cast("Any", type(_OVERRIDE_EXAMPLES[name]))


@dataclass(frozen=True)
class Model(Section):
    """The architecture and its initial weights.

    Attributes:
        name: The model's name in timm, with or without a tag; empty for the model that `weights` describe: that of a
            checkpoint, of a directory of transformers or timm, or of a repository of the Hugging Face Hub. A name must
            be that of the same architecture, except for overrides.
        overrides: Arguments of `create_model` that change the architecture, with timm's names.
        weights: Any source of `convert.read_state_dict`, such as a weight file, a directory with `config.json`,
            `hf-hub:ORG/NAME` or a checkpoint; empty trains from scratch.
        new_head: Whether to initialize a new classifier instead of loading that of `weights`.
    """

    PREFIX: ClassVar[str] = "model."

    name: str = key("deit_small_patch16_224")
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any], metadata={"example": {"depth": 2}})
    weights: str = key("", "weights", is_path=True)
    new_head: bool = key(False, "new_head")

    def check(self) -> None:
        """Check the types of the overrides; `create_model` checks their values."""
        overrides: dict[str, Any] = {}
        for name, value in self.overrides.items():
            if name not in OVERRIDE_NAMES:
                raise unknown("config key", self.PREFIX + name, [self.PREFIX + option for option in OVERRIDE_NAMES])
            example = _OVERRIDE_EXAMPLES[name]
            declared = _override_type(name)
            overrides[name] = normalize(value, declared)
            if not has_type(overrides[name], declared):
                raise wrong_type(self.PREFIX + name, value, declared, example)
        object.__setattr__(self, "overrides", overrides)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a section from values by key; an override of None keeps the value of the named architecture."""
        names = {cls.key(name): name for name in ("name", "weights", "new_head")}
        arguments = {names[key]: value for key, value in values.items() if key in names}
        overrides = {
            key.removeprefix(cls.PREFIX): value
            for key, value in values.items()
            if key not in names and value is not None
        }
        return cls(**arguments, overrides=overrides)

    @classmethod
    def examples(cls) -> dict[str, Any]:
        """Return a valid value for every key; none of them is None."""
        overrides = {cls.PREFIX + name: value for name, value in _OVERRIDE_EXAMPLES.items()}
        return {"model.name": cls.name, **overrides, "weights": cls.weights, "new_head": cls.new_head}

    def values(self) -> dict[str, Any]:
        """Return the value of every key; None for an override that is not set."""
        overrides = {self.PREFIX + name: self.overrides.get(name) for name in OVERRIDE_NAMES}
        return {"model.name": self.name, **overrides, "weights": self.weights, "new_head": self.new_head}


@dataclass(frozen=True)
class Reduction(Section):
    """The reducer and its schedule.

    Attributes:
        reducer: The reducer, or None for the dense model. Its keys are `reducer.name` and `reducer.FIELD`.
        schedule: Patch tokens removed in each block, one number for all blocks or one per block.
        gmacs: A budget in 1e9 multiply-adds that determines the schedule; 0 for none.
        schedule_family: How the budget's schedule distributes the removals over the blocks: one of
            `schedule.SCHEDULE_FAMILIES`, or `"method"` for that of the reducer.
    """

    reducer: Reducer | None = field(default=None, metadata={"example": reducers.REDUCERS["gtp"]()})
    schedule: int | tuple[int, ...] = key(0)
    gmacs: float = key(0.0)
    schedule_family: str = key("constant")

    def check(self) -> None:
        """Check ranges; `models.condense` checks the schedule against the model."""
        self.require(NOT_NEGATIVE, "gmacs")
        self.require_one_of("schedule_family", (*SCHEDULE_FAMILIES, "method"))

    @property
    def name(self) -> str:
        """The value of `reducer.name`; `"none"` for the dense model."""
        return str(reducers.to_config(self.reducer)["name"])

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a section from values by key, including those of the reducer."""
        rest = {key: value for key, value in values.items() if not key.startswith(REDUCER_PREFIX)}
        return cls(**rest, reducer=reducer_from_values(values))

    @classmethod
    def examples(cls) -> dict[str, Any]:
        """Return a valid value for every key except the fields of reducers; none of them is None."""
        return {
            "reducer.name": "gtp",
            "schedule": cls.schedule,
            "gmacs": cls.gmacs,
            "schedule_family": cls.schedule_family,
        }

    def values(self) -> dict[str, Any]:
        """Return the value of every key, including those of the reducer."""
        reducer = {REDUCER_PREFIX + name: value for name, value in reducers.to_config(self.reducer).items()}
        return {**reducer, "schedule": self.schedule, "gmacs": self.gmacs, "schedule_family": self.schedule_family}


def reducer_from_values(values: Mapping[str, Any]) -> Reducer | None:
    """Make the reducer from values by key.

    Args:
        values: Values by key; keys that do not start with `REDUCER_PREFIX` are ignored.

    Returns:
        The reducer; None if `reducer.name` is missing or `"none"`.

    Raises:
        InputError: The name or a field is unknown, or a value is invalid.
    """
    config = {
        key.removeprefix(REDUCER_PREFIX): value for key, value in values.items() if key.startswith(REDUCER_PREFIX)
    }
    return reducers.from_config({"name": "none", **config})
