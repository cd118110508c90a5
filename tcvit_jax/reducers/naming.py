"""Names of reducers: a short name in this package, `package.module:Class` in any other."""

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

from tcvit_jax.errors import invalid, out_of_range, requires, unknown
from tcvit_jax.reducers.base import BUILT_IN, Reducer

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class BuiltIn(Mapping[str, type[Reducer]]):
    """Read-only view of the reducers of this package by name, in alphabetical order."""

    def __getitem__(self, name: str) -> type[Reducer]:
        return BUILT_IN[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(BUILT_IN))

    def __len__(self) -> int:
        return len(BUILT_IN)


REDUCERS: Mapping[str, type[Reducer]] = BuiltIn()


def name_of(reducer: Reducer) -> str:
    """Return the name of the class of `reducer`, such that `find` returns the class.

    Raises:
        InputError: The class is defined in `__main__` or in a function, so that it cannot be imported by name.
    """
    kind = type(reducer)
    short = kind.__name__.lower()
    if BUILT_IN.get(short) is kind:
        return short
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        place = "__main__" if kind.__module__ == "__main__" else "a function"
        raise invalid(
            f"reducer {reducer!r}",
            f"its class is defined in {place} and cannot be imported by name",
            "define it at the top level of a module",
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def find(name: object) -> type[Reducer]:
    """Return the reducer class of a name.

    Args:
        name: A key of `REDUCERS`, or `package.module:Class`.

    Returns:
        The concrete subclass of `Reducer`.

    Raises:
        InputError: The name is unknown, its package is not installed, its module or class does not exist, or the class
            is not a reducer.
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
        raise invalid(f"reducer {name!r}", f"class {qualname!r} not found in module {path!r}") from None
    if not (isinstance(kind, type) and issubclass(kind, Reducer)) or inspect.isabstract(kind):
        raise out_of_range("reducer", name, "a concrete subclass of tcvit_jax.Reducer")
    return kind


def _module(path: str, name: str) -> ModuleType:
    """Import and return the module at `path` of the reducer `name`."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        package = missing.partition(".")[0]
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            raise requires(f"reducer {name!r}", f"the package {package!r}", "install it or set PYTHONPATH") from error
        raise invalid(f"reducer {name!r}", f"module {missing!r} not found") from error
