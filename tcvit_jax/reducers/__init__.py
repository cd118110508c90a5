"""The reducers, one file each: a module with a concrete subclass of `Reducer` is found by itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tcvit_jax.errors import InputError, unknown
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.naming import REDUCERS, find, name_of
from tcvit_jax.reducers.notation import configs

if TYPE_CHECKING:
    from tcvit_jax.reducers.ats import ATS as ATS
    from tcvit_jax.reducers.cross import Cross as Cross
    from tcvit_jax.reducers.diffrate import DiffRate as DiffRate
    from tcvit_jax.reducers.dpcknn import DPCKNN as DPCKNN
    from tcvit_jax.reducers.evit import EViT as EViT
    from tcvit_jax.reducers.gtp import GTP as GTP
    from tcvit_jax.reducers.kmedoids import KMedoids as KMedoids
    from tcvit_jax.reducers.mctf import MCTF as MCTF
    from tcvit_jax.reducers.pitome import PiToMe as PiToMe
    from tcvit_jax.reducers.random import Random as Random
    from tcvit_jax.reducers.tcvit import TCViT as TCViT
    from tcvit_jax.reducers.tofu import ToFu as ToFu
    from tcvit_jax.reducers.tome import ToMe as ToMe
    from tcvit_jax.reducers.topk import TopK as TopK
    from tcvit_jax.reducers.tps import TPS as TPS
    from tcvit_jax.reducers.uniform import Uniform as Uniform

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
    """Return a reducer as plain values, `{"name": "gtp", "alpha": 0.1, ...}`; `{"name": "none"}` for `None`.

    A reducer from another package is named `package.module:Class`.

    Raises:
        InputError: its class was defined in `__main__` or in a function, so that it cannot be imported again.
    """
    if reducer is None:
        return {"name": "none"}
    return {
        "name": name_of(reducer),
        **{each.name: getattr(reducer, each.name) for each in fields(reducer) if each.init},
    }


def from_config(config: Mapping[str, Any]) -> Reducer | None:
    """Return the reducer that `to_config` describes; fields that are not given take their defaults.

    Raises:
        InputError: an unknown name or field, a package that is not installed, or a value that a field cannot take.
    """
    values = dict(config)
    name = values.pop("name")
    kind = None if name == "none" else find(name)
    options = [] if kind is None else [field.name for field in fields(kind) if field.init]
    for key in values:
        if key not in options:
            raise unknown(f"field of reducer {name!r}:", key, options)
    return None if kind is None else kind(**values)


def parse(text: str) -> tuple[Reducer, ...]:
    """Return the reducers named in one argument: `gtp,tcvit(order=3, fuse=soft),package.module:Class`, or `all`.

    `all` stands for every method of this package with its defaults, the one that others are compared with in front.

    Raises:
        InputError: text of another form, or an unknown name or field.
    """
    if text == "all":
        methods = [kind for kind in REDUCERS.values() if kind.IS_METHOD]
        return tuple(kind() for kind in sorted(methods, key=lambda kind: not kind.IS_REFERENCE))
    reducers = [from_config(config) for config in configs(text)]
    for reducer in reducers:
        for name, words in reducer.set_inactive_fields().items() if reducer else ():
            raise InputError(f"reducers {text!r}: {name}={getattr(reducer, name)!r} has no effect: it requires {words}")
    if None in reducers:
        raise InputError(f"reducers {text!r} hold 'none', which reduces nothing: the dense model is compared anyhow")
    return tuple(reducer for reducer in reducers if reducer is not None)
