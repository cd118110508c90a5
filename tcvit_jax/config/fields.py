"""What all sections of a configuration share: keys, types, and the errors for values that do not fit."""

from __future__ import annotations

import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self

from tcvit_jax.errors import InputError, unknown


def key(default: Any, name: str | None = None, example: Any = None) -> Any:
    """Declare a field of a section.

    Args:
        default: its value where a configuration does not set it.
        name: its key, where that is not the section's prefix and the field's name.
        example: a value that errors show, where `default` is None.
    """
    return field(default=default, metadata={"key": name, "example": default if example is None else example})


@dataclass(frozen=True)
class Condition:
    """A condition, and its words for errors.

    Attributes:
        text: such as `"> 0"`.
        holds: the test, on a value or on the values of all keys.
    """

    text: str
    holds: Callable[[Any], bool]


POSITIVE = Condition("> 0", lambda value: value > 0)
NOT_NEGATIVE = Condition(">= 0", lambda value: value >= 0)
AT_LEAST_ONE = Condition(">= 1", lambda value: value >= 1)
PROBABILITY = Condition("in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_ONE = Condition("in [0, 1)", lambda value: 0 <= value < 1)


@dataclass(frozen=True)
class Section:
    """Base of the sections: checks every field when a section is made.

    Lists, as JSON has them, become tuples, and whole numbers floats where the field is one.

    Raises:
        InputError: a field of another type, or out of its range.
    """

    # What stands before a field's name in its key, such as `"data."`.
    PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the types of all fields, then their values."""
        for name, declared in field_types(type(self)).items():
            given = getattr(self, name)
            value = normalized(given, declared)
            if not fits(value, declared):
                raise wrong_type(self.key(name), given, declared, self.__dataclass_fields__[name].metadata["example"])
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise an `InputError` for a value out of its range."""

    @classmethod
    def key(cls, name: str) -> str:
        """Return the key of a field: what files and `--config.KEY=VALUE` call it."""
        return cls.__dataclass_fields__[name].metadata.get("key") or cls.PREFIX + name

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a section from values by key; keys that are not there take their defaults.

        Raises:
            InputError: a key that the section does not have, or a value that does not fit.
        """
        names = {cls.key(each.name): each.name for each in fields(cls)}
        for config_key in values:
            if config_key not in names:
                raise unknown("config key", config_key, names)
        return cls(**{names[config_key]: value for config_key, value in values.items()})

    @classmethod
    def examples(cls) -> dict[str, Any]:
        """Return a value of every key that is not None, of the type that the key takes."""
        return {cls.key(each.name): each.metadata["example"] for each in fields(cls)}

    def values(self) -> dict[str, Any]:
        """Return the value of every key of the section."""
        return {self.key(each.name): getattr(self, each.name) for each in fields(self)}

    def require(self, condition: Condition, *names: str) -> None:
        """Raise an `InputError` for the first of the fields `names` that does not meet a condition."""
        for name in names:
            value = getattr(self, name)
            if not condition.holds(value):
                raise InputError(f"{self.key(name)}={value!r}: must be {condition.text}")

    def require_one_of(self, name: str, options: Sequence[str]) -> None:
        """Raise an `InputError` unless the field `name` is one of `options`."""
        if getattr(self, name) not in options:
            raise unknown(self.key(name), getattr(self, name), options)


@cache
def field_types(section: type[Section]) -> Mapping[str, Any]:
    """Return the declared type of every field of a section."""
    hints = typing.get_type_hints(section)
    return {each.name: hints[each.name] for each in fields(section)}


def normalized(value: Any, declared: Any) -> Any:
    """Return `value` with lists as tuples, and with whole numbers as floats where `declared` has floats."""
    members = _members(declared)
    if isinstance(value, list | tuple):
        elements = typing.cast("Sequence[Any]", value)
        inner = [typing.get_args(member)[0] for member in members if typing.get_origin(member) is tuple]
        return tuple(normalized(each, inner[0]) for each in elements) if inner else tuple(elements)
    if isinstance(value, bool):
        return value
    # Numbers of NumPy become Python's, which JSON can hold.
    if float in members and int not in members and isinstance(value, numbers.Real):
        return float(value)
    return int(value) if int in members and isinstance(value, numbers.Integral) else value


def fits(value: Any, declared: Any) -> bool:
    """Return whether `value` is of the declared type, a union of plain types and tuples of them."""
    return any(_fits_member(value, member) for member in _members(declared))


def _members(declared: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)


def _fits_member(value: Any, declared: Any) -> bool:
    if typing.get_origin(declared) is tuple:
        element, *_ = typing.get_args(declared)
        return isinstance(value, tuple) and all(
            _fits_member(each, element) for each in typing.cast("tuple[Any, ...]", value)
        )
    if declared in (int, float):
        # A truth value is a number to Python.
        return not isinstance(value, bool) and isinstance(value, numbers.Integral if declared is int else numbers.Real)
    return isinstance(value, typing.get_origin(declared) or declared)


def wrong_type(name: str, value: Any, declared: Any, example: Any) -> InputError:
    """Return the error for a value of another type than its key takes."""
    kinds = [typing.get_origin(member) or member for member in _members(declared) if member is not types.NoneType]
    shown = " or ".join(dict.fromkeys(kind.__name__ for kind in kinds))
    return InputError(f"config key {name!r} takes {shown}, such as {example!r}, not {value!r}")
