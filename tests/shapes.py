"""Runtime checks of array annotations: shapes and dtypes, in every function of the package that tests call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jaxtyping
from beartype import beartype

jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Check the array annotations of the package's functions; call it before the first import of the package.

    jaxtyping's hook wraps every function and class, which made the search for a budget 30 times slower. Here it wraps
    only the functions that take or return arrays.
    """
    jaxtyping.jaxtyped = _jaxtyped_if_array
    jaxtyping.install_import_hook("tcvit_jax", f"{__name__}.check")


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with its array annotations enforced.

    Other annotations are left to pyright, because tests pass values of the wrong type to check for errors.
    """
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _is_array(hint)}
    return beartype(function)


def _jaxtyped_if_array(target: Any = None, *, typechecker: Any) -> Any:
    """Apply `jaxtyping.jaxtyped` to functions with array annotations.

    Dataclasses are not wrapped, because tree transformations build pytrees with leaves that are not arrays.
    """
    if target is None:
        return partial(_jaxtyped_if_array, typechecker=typechecker)
    if isinstance(target, type) or not any("rray" in str(hint) for hint in target.__annotations__.values()):
        return target
    return jaxtyped(target, typechecker=typechecker)


def _is_array(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_is_array, get_args(hint)))
