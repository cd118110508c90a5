"""Conversion between weight files of other projects and Flax variables, by the parameter tables."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcvit_jax.convert.command import to_checkpoint as to_checkpoint
    from tcvit_jax.convert.command import to_safetensors as to_safetensors
    from tcvit_jax.convert.mapping import Conversion as Conversion
    from tcvit_jax.convert.mapping import convert as convert
    from tcvit_jax.convert.mapping import from_torch as from_torch
    from tcvit_jax.convert.mapping import to_torch as to_torch
    from tcvit_jax.convert.report import Report as Report
    from tcvit_jax.convert.sources import read_meta as read_meta
    from tcvit_jax.convert.sources import read_state_dict as read_state_dict

# The module of each public name. Names are resolved on first use, so that the command starts before JAX is imported.
_MODULE_OF = {
    "Conversion": "mapping",
    "Report": "report",
    "convert": "mapping",
    "from_torch": "mapping",
    "read_meta": "sources",
    "read_state_dict": "sources",
    "to_checkpoint": "command",
    "to_safetensors": "command",
    "to_torch": "mapping",
}
__all__ = [*_MODULE_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
