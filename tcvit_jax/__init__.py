"""Vision Transformers made cheaper by condensing their tokens, in JAX.

import tcvit_jax as tc
model = tc.create_model("deit_small_patch16_224", reducer=tc.GTP(), schedule=8)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcvit_jax import convert, measure, schedule
    from tcvit_jax.checkpoint import load
    from tcvit_jax.errors import InputError
    from tcvit_jax.measure import describe, diagnose
    from tcvit_jax.models import condense, create_model, list_models
    from tcvit_jax.ops.plans import restore
    from tcvit_jax.reducers import (
        ATS,
        DPCKNN,
        GTP,
        MCTF,
        TPS,
        Cross,
        DiffRate,
        EViT,
        KMedoids,
        PiToMe,
        Random,
        TCViT,
        ToFu,
        ToMe,
        TopK,
        Uniform,
    )
    from tcvit_jax.tokens import Plan, Tokens, Trace

__version__ = "0.1.0"
__all__ = [
    "ATS", "DPCKNN", "GTP", "MCTF", "TPS", "Cross", "DiffRate", "EViT", "InputError", "KMedoids", "PiToMe", "Plan",
    "Random", "TCViT", "ToFu", "ToMe", "Tokens", "TopK", "Trace", "Uniform", "condense", "convert", "create_model",
    "describe", "diagnose", "list_models", "load", "measure", "restore", "schedule",
]  # fmt: skip

# Where each public name lives. Resolved on first use: data workers and `--help` do not wait for JAX.
_REDUCERS = (
    "ATS", "DPCKNN", "GTP", "MCTF", "TPS", "Cross", "DiffRate", "EViT", "KMedoids", "PiToMe", "Random", "TCViT",
    "ToFu", "ToMe", "TopK", "Uniform",
)  # fmt: skip
_HOMES = {
    **dict.fromkeys(_REDUCERS, "reducers"),
    "InputError": "errors",
    "Plan": "tokens",
    "Tokens": "tokens",
    "Trace": "tokens",
    "condense": "models",
    "create_model": "models",
    "describe": "measure",
    "diagnose": "measure",
    "list_models": "models",
    "load": "checkpoint",
    "restore": "ops.plans",
}


def __getattr__(name: str) -> Any:
    if name in ("convert", "measure", "schedule"):
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
