"""Base class of the sections of a configuration: keys, types and ranges of their fields."""

from __future__ import annotations

import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self

from tcvit_jax.errors import InputError, out_of_range, unknown


def key(default: Any, name: str | None = None, example: Any = None, is_path: bool = False) -> Any:
    """Declare a field of a section.

    Args:
        default: The default value.
        name: The key, if it is not the section's prefix and the field's name.
        example: A valid value for error messages, if `default` is None.
        is_path: Whether `~` and environment variables are expanded where a user sets the value.

    Returns:
        The field, for the body of a dataclass.
    """
    example = default if example is None else example
    return field(default=default, metadata={"key": name, "example": example, "is_path": is_path})


@dataclass(frozen=True)
class Condition:
    """A condition, and its wording in error messages.

    Attributes:
        text: The condition, such as `"> 0"`.
        holds: The predicate, on one value or on the values of all keys.
        hint: How to meet the condition, or an empty string.
    """

    text: str
    holds: Callable[[Any], bool]
    hint: str = ""


POSITIVE = Condition("> 0", lambda value: value > 0)
NOT_NEGATIVE = Condition(">= 0", lambda value: value >= 0)
AT_LEAST_ONE = Condition(">= 1", lambda value: value >= 1)
PROBABILITY = Condition("in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_ONE = Condition("in [0, 1)", lambda value: 0 <= value < 1)


def _is_finite(value: Any) -> bool:
    values = typing.cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,))
    return all(math.isfinite(each) for each in values if isinstance(each, float))


_FINITE = Condition("finite", _is_finite)


@dataclass(frozen=True)
class Section:
    """Base class of the sections, which checks the type and range of every field.

    Lists, as in JSON, become tuples; integers become floats in float fields.

    Raises:
        InputError: A field is of the wrong type, not finite or out of range.
    """

    # The prefix of the keys, such as `"data."`.
    PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the types of all fields, then their ranges."""
        for name, declared in field_types(type(self)).items():
            original = getattr(self, name)
            value = normalize(original, declared)
            if not has_type(value, declared):
                example = self.__dataclass_fields__[name].metadata["example"]
                raise wrong_type(self.key(name), original, declared, example)
            object.__setattr__(self, name, value)
        self.check()
        self.require(_FINITE, *(each.name for each in fields(self)))

    def check(self) -> None:
        """Raise an `InputError` for a value that is out of range."""

    @classmethod
    def key(cls, name: str) -> str:
        """Return the key of a field, as in configuration files and `--config.KEY=VALUE`."""
        return cls.__dataclass_fields__[name].metadata.get("key") or cls.PREFIX + name

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Make a section from values by key; missing keys take their defaults.

        Args:
            values: Values by key, such as `{"data.name": "digits"}`.

        Returns:
            The section.

        Raises:
            InputError: A key is unknown, or a value is invalid.
        """
        names = {cls.key(each.name): each.name for each in fields(cls)}
        for config_key in values:
            if config_key not in names:
                raise unknown("config key", config_key, names)
        return cls(**{names[config_key]: value for config_key, value in values.items()})

    @classmethod
    def examples(cls) -> dict[str, Any]:
        """Return a valid value for every key; none of them is None."""
        return {cls.key(each.name): each.metadata["example"] for each in fields(cls)}

    @classmethod
    def path_keys(cls) -> set[str]:
        """Return the keys whose values are paths."""
        return {cls.key(each.name) for each in fields(cls) if each.metadata.get("is_path")}

    def values(self) -> dict[str, Any]:
        """Return the value of every key of the section."""
        return {self.key(each.name): getattr(self, each.name) for each in fields(self)}

    def require(self, condition: Condition, *names: str) -> None:
        """Raise an `InputError` for the first field of `names` that does not meet the condition."""
        for name in names:
            value = getattr(self, name)
            if not condition.holds(value):
                raise out_of_range(self.key(name), value, condition.text, condition.hint)

    def require_one_of(self, name: str, options: Sequence[str]) -> None:
        """Raise an `InputError` unless the field `name` is one of `options`."""
        if getattr(self, name) not in options:
            raise unknown(self.key(name), getattr(self, name), options)


@cache
def field_types(section: type[Section]) -> Mapping[str, Any]:
    """Return the declared type of every field of a section."""
    hints = typing.get_type_hints(section)
    return {each.name: hints[each.name] for each in fields(section)}


def normalize(value: Any, declared: Any) -> Any:
    """Return `value` with lists as tuples and, where `declared` is a float, integers as floats."""
    members = _members(declared)
    if isinstance(value, list | tuple):
        elements = typing.cast("Sequence[Any]", value)
        element_types = [typing.get_args(member)[0] for member in members if typing.get_origin(member) is tuple]
        return tuple(normalize(each, element_types[0]) for each in elements) if element_types else tuple(elements)
    if isinstance(value, bool):
        return value
    # NumPy's numbers become Python's, which JSON can encode.
    if float in members and int not in members and isinstance(value, numbers.Real):
        return float(value)
    return int(value) if int in members and isinstance(value, numbers.Integral) else value


def has_type(value: Any, declared: Any) -> bool:
    """Return whether `value` is of the declared type, a union of plain types and tuples of them."""
    return any(_has_member_type(value, member) for member in _members(declared))


def _members(declared: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)


def _has_member_type(value: Any, declared: Any) -> bool:
    if typing.get_origin(declared) is tuple:
        element_type, *_ = typing.get_args(declared)
        return isinstance(value, tuple) and all(
            _has_member_type(each, element_type) for each in typing.cast("tuple[Any, ...]", value)
        )
    if declared in (int, float):
        # In Python, a bool is an integer.
        return not isinstance(value, bool) and isinstance(value, numbers.Integral if declared is int else numbers.Real)
    return isinstance(value, typing.get_origin(declared) or declared)


def wrong_type(name: str, value: Any, declared: Any, example: Any) -> InputError:
    """Return the error for a value of the wrong type.

    Args:
        name: The key.
        value: The value that was set.
        declared: The type of the key; None is not named in the message.
        example: A valid value.

    Returns:
        An error such as `batch_size='many': must be an integer, such as 1024`.
    """
    members = [member for member in _members(declared) if member is not types.NoneType]
    condition = " or ".join(_describe_type(member) for member in members)
    return out_of_range(name, value, condition if members == [bool] else f"{condition}, such as {example!r}")


def _describe_type(declared: Any) -> str:
    return _TYPE_NAMES.get(declared) or f"a {(typing.get_origin(declared) or declared).__name__}"


_TYPE_NAMES: Mapping[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple[int, ...]: "a tuple of integers",
    tuple[float, ...]: "a tuple of numbers",
}
