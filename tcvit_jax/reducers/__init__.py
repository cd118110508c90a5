"""The methods, one file each. A new one: a file with its dataclass, and a line in `REDUCERS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from tcvit_jax.errors import unknown
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.gtp import GTP
from tcvit_jax.reducers.tcvit import TCViT

REDUCERS: dict[str, type[Reducer]] = {"gtp": GTP, "tcvit": TCViT}

__all__ = ["GTP", "REDUCERS", "Reducer", "TCViT", "from_config", "to_config"]


def to_config(reducer: Reducer | None) -> dict[str, Any]:
    """A reducer as plain values, `{"name": "gtp", "alpha": 0.1, ...}`; `None` is `{"name": "none"}`."""
    if reducer is None:
        return {"name": "none"}
    name = next(name for name, kind in REDUCERS.items() if kind is type(reducer))
    return {"name": name, **asdict(reducer)}


def from_config(config: Mapping[str, Any]) -> Reducer | None:
    """The reducer that `to_config` wrote down; fields left out take the method's defaults.

    Raises:
        InputError: a name or a field that no reducer has.
    """
    values = dict(config)
    name = values.pop("name")
    if name == "none":
        return None
    if name not in REDUCERS:
        raise unknown("reducer", name, [*REDUCERS, "none"])
    kind = REDUCERS[name]
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise unknown(f"field of reducer {name!r}:", key, known)
    return kind(**values)
