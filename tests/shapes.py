"""What the import hook checks whenever a test calls a function of the package: the shapes and dtypes of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with its array annotations enforced, in `jaxtyping.install_import_hook`.

    Other annotations are pyright's: a test may pass a value of the wrong type to see it refused. `__init__` is left
    alone, because tree transformations build pytrees of leaves that are not arrays.
    """
    arrays = {name: hint for name, hint in function.__annotations__.items() if _has_array(hint)}
    if not arrays or function.__name__ == "__init__":
        return function
    function.__annotations__ = arrays
    return beartype(function)


def _has_array(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_array, get_args(hint)))
