"""Names of reducers: a short one for each in this package, `package.module:Class` for any other."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from tcvit_jax.errors import InputError, unknown
from tcvit_jax.reducers.base import BUILT_IN, Reducer

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class BuiltIn(Mapping[str, type[Reducer]]):
    """The reducers of this package by name, in alphabetical order: a live, read-only view."""

    def __getitem__(self, name: str) -> type[Reducer]:
        return BUILT_IN[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(BUILT_IN))

    def __len__(self) -> int:
        return len(BUILT_IN)


REDUCERS: Mapping[str, type[Reducer]] = BuiltIn()


def name_of(reducer: Reducer) -> str:
    """Return the name that `find` takes for the class of `reducer`.

    Raises:
        InputError: the class cannot be imported, because it was defined in `__main__` or in a function.
    """
    kind = type(reducer)
    short = kind.__name__.lower()
    if BUILT_IN.get(short) is kind:
        return short
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        place = "__main__" if kind.__module__ == "__main__" else "a function"
        raise InputError(
            f"reducer {reducer!r}: its class is defined in {place} and cannot be imported by name; "
            "define it at the top level of a module"
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def find(name: object) -> type[Reducer]:
    """Return the reducer class called `name`, a key of `REDUCERS` or `package.module:Class`.

    Raises:
        InputError: no such reducer; the package is not installed; the module, or the class in it, does not exist; or
            the class is not a reducer.
    """
    if isinstance(name, str) and name in BUILT_IN:
        return BUILT_IN[name]
    if not isinstance(name, str) or not _PATH.fullmatch(name):
        raise unknown("reducer", name, [*REDUCERS, "none"])
    path, _, qualname = name.partition(":")
    module = _module(path, name)
    try:
        kind: Any = functools.reduce(getattr, qualname.split("."), module)
    except AttributeError:
        raise InputError(f"reducer {name!r}: class {qualname!r} not found in module {path!r}") from None
    if not (isinstance(kind, type) and issubclass(kind, Reducer)) or inspect.isabstract(kind):
        raise InputError(f"reducer {name!r}: {qualname!r} must be a class that derives from tcvit_jax.Reducer")
    return kind


def _module(path: str, name: str) -> ModuleType:
    """Import the module of the reducer `name`."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        package = missing.partition(".")[0]
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            reason = f"requires the package {package!r}, which is not installed"
        else:
            reason = f"module {missing!r} not found"
        raise InputError(f"reducer {name!r}: {reason}") from error
