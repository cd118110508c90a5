"""The model and its reduction: the sections whose keys are not their fields alone.

Behind the prefix of `Model` come the overrides that `create_model` takes, behind `REDUCER_PREFIX` the reducer's fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, cast

from tcvit_jax import reducers
from tcvit_jax.config.fields import NOT_NEGATIVE, Section, fits, key, normalized, wrong_type
from tcvit_jax.errors import unknown
from tcvit_jax.models import LVViT, ViT
from tcvit_jax.models.zoo import OVERRIDE_NAMES
from tcvit_jax.reducers import Reducer
from tcvit_jax.schedule import SCHEDULE_FAMILIES

# What stands before the name and the fields of a reducer in their keys.
REDUCER_PREFIX = "reducer."
# A value of every override, for its type and for errors; two of them are None by default.
_OVERRIDE_EXAMPLES: Mapping[str, Any] = {
    **{each.name: each.default for kind in (LVViT, ViT) for each in fields(kind) if each.name in OVERRIDE_NAMES},
    "fc_norm": True,
    "init_values": 1e-5,
}


def _override_type(name: str) -> Any:
    return int | tuple[int, ...] if name == "img_size" else cast("Any", type(_OVERRIDE_EXAMPLES[name]))


@dataclass(frozen=True)
class Model(Section):
    """The model, and the weights that it starts from.

    Attributes:
        name: timm's, with or without a tag.
        overrides: arguments of `create_model` that differ from what the name says, by timm's names.
        weights: a file, `hf-hub:timm/NAME` or a checkpoint; empty starts from scratch.
        new_head: whether to leave out the classifier of `weights`, for one of other classes.
    """

    PREFIX: ClassVar[str] = "model."

    name: str = key("deit_small_patch16_224")
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any], metadata={"example": {"depth": 2}})
    weights: str = key("", "weights")
    new_head: bool = key(False, "new_head")

    def check(self) -> None:
        """Check the types of the overrides; which values fit each other is for `create_model` to say."""
        checked: dict[str, Any] = {}
        for name, value in self.overrides.items():
            if name not in OVERRIDE_NAMES:
                raise unknown("config key", self.PREFIX + name, [self.PREFIX + known for known in OVERRIDE_NAMES])
            example = _OVERRIDE_EXAMPLES[name]
            declared = _override_type(name)
            checked[name] = normalized(value, declared)
            if not fits(checked[name], declared):
                raise wrong_type(self.PREFIX + name, value, declared, example)
        object.__setattr__(self, "overrides", checked)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a section from values by key; an override that is None is as the model's name says."""
        own = {cls.key(name): name for name in ("name", "weights", "new_head")}
        given = {own[key]: value for key, value in values.items() if key in own}
        overrides = {
            key.removeprefix(cls.PREFIX): value for key, value in values.items() if key not in own and value is not None
        }
        return cls(**given, overrides=overrides)

    @classmethod
    def examples(cls) -> dict[str, Any]:
        """Return a value of every key that is not None."""
        overrides = {cls.PREFIX + name: value for name, value in _OVERRIDE_EXAMPLES.items()}
        return {"model.name": cls.name, **overrides, "weights": cls.weights, "new_head": cls.new_head}

    def values(self) -> dict[str, Any]:
        """Return the value of every key; None for an override that is as the model's name says."""
        overrides = {self.PREFIX + name: self.overrides.get(name) for name in OVERRIDE_NAMES}
        return {"model.name": self.name, **overrides, "weights": self.weights, "new_head": self.new_head}


@dataclass(frozen=True)
class Reduction(Section):
    """How tokens are reduced.

    Attributes:
        reducer: the method, or None for the dense model; its keys are `reducer.name` and `reducer.FIELD`.
        schedule: patch tokens that leave every block, or one number for each block.
        gmacs: instead of a schedule, the budget in 1e9 multiply-adds; 0 is none.
        schedule_family: how a budget's schedule spreads removals: one of `schedule.SCHEDULE_FAMILIES`, or `"method"`.
    """

    reducer: Reducer | None = field(default=None, metadata={"example": reducers.REDUCERS["gtp"]()})
    schedule: int | tuple[int, ...] = key(0)
    gmacs: float = key(0.0)
    schedule_family: str = key("constant")

    def check(self) -> None:
        """Check ranges; whether a schedule fits a model is for `models.condense` to say."""
        self.require(NOT_NEGATIVE, "gmacs")
        self.require_one_of("schedule_family", (*SCHEDULE_FAMILIES, "method"))

    @property
    def name(self) -> str:
        """The name of the reducer, as `reducer.name` has it; `"none"` for the dense model."""
        return str(reducers.to_config(self.reducer)["name"])

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a section from values by key, those of the reducer among them."""
        rest = {key: value for key, value in values.items() if not key.startswith(REDUCER_PREFIX)}
        return cls(**rest, reducer=reducer_from_values(values))

    @classmethod
    def examples(cls) -> dict[str, Any]:
        """Return a value of every key that is not None, but for the fields of reducers."""
        return {
            "reducer.name": "gtp",
            "schedule": cls.schedule,
            "gmacs": cls.gmacs,
            "schedule_family": cls.schedule_family,
        }

    def values(self) -> dict[str, Any]:
        """Return the value of every key, those of the reducer among them."""
        method = {REDUCER_PREFIX + name: value for name, value in reducers.to_config(self.reducer).items()}
        return {**method, "schedule": self.schedule, "gmacs": self.gmacs, "schedule_family": self.schedule_family}


def reducer_from_values(values: Mapping[str, Any]) -> Reducer | None:
    """Return the reducer of values by key, of which those of other sections are left out; None without a name.

    Raises:
        InputError: an unknown name or field, or a value that does not fit.
    """
    method = {
        key.removeprefix(REDUCER_PREFIX): value for key, value in values.items() if key.startswith(REDUCER_PREFIX)
    }
    return reducers.from_config({"name": "none", **method})
