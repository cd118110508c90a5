"""Shapes and dtypes of arrays, checked whenever a test calls a function of the package that annotates them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jaxtyping
from beartype import beartype

jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Check the package's functions from here on; call it before the first import of the package.

    jaxtyping's hook wraps every function and class, which made the search for a budget 30 times slower. Here it wraps
    the functions that take or return arrays.
    """
    jaxtyping.jaxtyped = _jaxtyped_if_array
    jaxtyping.install_import_hook("tcvit_jax", f"{__name__}.check")


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with its array annotations enforced.

    Other annotations are left to pyright: a test may pass a value of the wrong type to see it refused.
    """
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if _is_array(hint)}
    return beartype(function)


def _jaxtyped_if_array(target: Any = None, *, typechecker: Any) -> Any:
    """As `jaxtyping.jaxtyped`, for functions with array annotations alone.

    Not for dataclasses: tree transformations build pytrees of leaves that are not arrays.
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
