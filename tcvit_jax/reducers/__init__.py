"""The reducers, one module each.

Importing this package imports all its modules, which registers their concrete subclasses of `Reducer`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tcvit_jax.errors import conflicts, invalid, requires, unknown
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.naming import REDUCERS, find, name_of
from tcvit_jax.reducers.notation import configs

if TYPE_CHECKING:
    from tcvit_jax.reducers.ats import ATS as ATS
    from tcvit_jax.reducers.cross import Cross as Cross
    from tcvit_jax.reducers.cubistmerge import CubistMerge as CubistMerge
    from tcvit_jax.reducers.diffrate import DiffRate as DiffRate
    from tcvit_jax.reducers.dpcknn import DPCKNN as DPCKNN
    from tcvit_jax.reducers.evit import EViT as EViT
    from tcvit_jax.reducers.gtp import GTP as GTP
    from tcvit_jax.reducers.kmedoids import KMedoids as KMedoids
    from tcvit_jax.reducers.mctf import MCTF as MCTF
    from tcvit_jax.reducers.pitome import PiToMe as PiToMe
    from tcvit_jax.reducers.random import Random as Random
    from tcvit_jax.reducers.representationshift import RepresentationShift as RepresentationShift
    from tcvit_jax.reducers.saliencymerging import SaliencyMerging as SaliencyMerging
    from tcvit_jax.reducers.tcvit import TCViT as TCViT
    from tcvit_jax.reducers.tofu import ToFu as ToFu
    from tcvit_jax.reducers.tome import ToMe as ToMe
    from tcvit_jax.reducers.topk import TopK as TopK
    from tcvit_jax.reducers.tps import TPS as TPS
    from tcvit_jax.reducers.uniform import Uniform as Uniform
    from tcvit_jax.reducers.wardtome import WardToMe as WardToMe

# Importing a module registers its reducers.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def __getattr__(name: str) -> Any:
    """Return the reducer class of this name."""
    kind = REDUCERS.get(name.lower())
    if kind is None or kind.__name__ != name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return kind


def __dir__() -> list[str]:
    return sorted([*globals(), *(kind.__name__ for kind in REDUCERS.values())])


def to_config(reducer: Reducer | None) -> dict[str, Any]:
    """Return the configuration of a reducer, such as `{"name": "gtp", "alpha": 0.1, ...}`.

    Args:
        reducer: The reducer. None gives `{"name": "none"}`.

    Returns:
        The name and all fields. A reducer from another package is named `package.module:Class`.

    Raises:
        InputError: The class of the reducer is defined in `__main__` or in a function, so that it cannot be imported
            by name.
    """
    if reducer is None:
        return {"name": "none"}
    return {
        "name": name_of(reducer),
        **{field.name: getattr(reducer, field.name) for field in fields(reducer) if field.init},
    }


def from_config(config: Mapping[str, Any]) -> Reducer | None:
    """Return the reducer of a configuration, the inverse of `to_config`.

    Args:
        config: The name of the reducer and values of its fields. Missing fields take their defaults.

    Returns:
        The reducer, or None for the name `"none"`.

    Raises:
        InputError: An unknown name or field, an invalid value, or a package that is not installed.
    """
    values = dict(config)
    name = values.pop("name")
    kind = None if name == "none" else find(name)
    options = [] if kind is None else [field.name for field in fields(kind) if field.init]
    for key in values:
        if kind is None:
            raise conflicts(f"{key}={values[key]!r}", "reducer 'none'", "it has no fields")
        if key not in options:
            raise unknown(f"{name} field", key, options)
    return None if kind is None else kind(**values)


def parse(text: str) -> tuple[Reducer, ...]:
    """Return the reducers of a comma-separated list.

    Args:
        text: A list such as `gtp,tcvit(order=3, fuse=soft),package.module:Class`, or `all` for every method of this
            package with its defaults, the reference method first.

    Returns:
        The reducers in the order of the list.

    Raises:
        InputError: Malformed text, an unknown name or field, or a field that has no effect.
    """
    if text == "all":
        methods = [kind for kind in REDUCERS.values() if kind.IS_METHOD]
        return tuple(kind() for kind in sorted(methods, key=lambda kind: not kind.IS_REFERENCE))
    return tuple(from_notation(config, text) for config in configs(text))


def from_notation(config: Mapping[str, Any], text: str) -> Reducer:
    """Return one reducer of a list.

    Args:
        config: The name and the fields, from `notation.configs`.
        text: The list, for error messages.

    Raises:
        InputError: As for `parse`.
    """
    reducer = from_config(config)
    if reducer is None:
        raise invalid(f"reducers={text!r}", "must not contain 'none'", "the dense model is always compared")
    for name, condition in reducer.changed_inactive_fields().items():
        raise requires(
            f"{name}={getattr(reducer, name)!r} in reducers={text!r}", condition, "it has no effect otherwise"
        )
    return reducer
