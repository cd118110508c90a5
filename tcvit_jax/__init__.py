"""Token reduction for Vision Transformers in JAX and Flax.

import tcvit_jax as tc
model = tc.create_model("deit_small_patch16_224", reducer=tc.GTP(), schedule=8)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcvit_jax import convert as convert
    from tcvit_jax import measure as measure
    from tcvit_jax import schedule as schedule
    from tcvit_jax.errors import InputError as InputError
    from tcvit_jax.loading import load as load
    from tcvit_jax.measure import describe as describe
    from tcvit_jax.measure import diagnose as diagnose
    from tcvit_jax.models import check_variables as check_variables
    from tcvit_jax.models import condense as condense
    from tcvit_jax.models import create_model as create_model
    from tcvit_jax.models import list_models as list_models
    from tcvit_jax.ops.attention import Signals as Signals
    from tcvit_jax.ops.plans import restore as restore
    from tcvit_jax.preprocessing import preprocess as preprocess
    from tcvit_jax.presets import Preset as Preset
    from tcvit_jax.reducers import ATS as ATS
    from tcvit_jax.reducers import DPCKNN as DPCKNN
    from tcvit_jax.reducers import GTP as GTP
    from tcvit_jax.reducers import MCTF as MCTF
    from tcvit_jax.reducers import TPS as TPS
    from tcvit_jax.reducers import Cross as Cross
    from tcvit_jax.reducers import CubistMerge as CubistMerge
    from tcvit_jax.reducers import DiffRate as DiffRate
    from tcvit_jax.reducers import EViT as EViT
    from tcvit_jax.reducers import KMedoids as KMedoids
    from tcvit_jax.reducers import PiToMe as PiToMe
    from tcvit_jax.reducers import Random as Random
    from tcvit_jax.reducers import RepresentationShift as RepresentationShift
    from tcvit_jax.reducers import SaliencyMerging as SaliencyMerging
    from tcvit_jax.reducers import TCViT as TCViT
    from tcvit_jax.reducers import ToFu as ToFu
    from tcvit_jax.reducers import ToMe as ToMe
    from tcvit_jax.reducers import TopK as TopK
    from tcvit_jax.reducers import Uniform as Uniform
    from tcvit_jax.reducers import WardToMe as WardToMe
    from tcvit_jax.reducers.base import Reducer as Reducer
    from tcvit_jax.reducers.parts import BlockContext as BlockContext
    from tcvit_jax.reducers.parts import Fusion as Fusion
    from tcvit_jax.reducers.parts import FusionInputs as FusionInputs
    from tcvit_jax.reducers.parts import Match as Match
    from tcvit_jax.reducers.parts import Parts as Parts
    from tcvit_jax.reducers.parts import Score as Score
    from tcvit_jax.tokens import Plan as Plan
    from tcvit_jax.tokens import Tokens as Tokens
    from tcvit_jax.tokens import Trace as Trace

__version__ = "0.1.0"

# The module of each public name. Names are resolved on first use, so that data workers and `--help` do not import JAX.
_MODULES = ("convert", "measure", "schedule")
_MODULE_OF = {
    "FusionInputs": "reducers.parts",
    "Fusion": "reducers.parts",
    "InputError": "errors",
    "Match": "reducers.parts",
    "Parts": "reducers.parts",
    "Plan": "tokens",
    "Preset": "presets",
    "Reducer": "reducers.base",
    "Score": "reducers.parts",
    "Signals": "ops.attention",
    "BlockContext": "reducers.parts",
    "Tokens": "tokens",
    "Trace": "tokens",
    "check_variables": "models",
    "condense": "models",
    "create_model": "models",
    "describe": "measure",
    "diagnose": "measure",
    "list_models": "models",
    "load": "loading",
    "preprocess": "preprocessing",
    "restore": "ops.plans",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__all__":
        return _public_names()
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    # Any other capitalized name is looked up among the reducers.
    kind = importlib.import_module(f"{__name__}.reducers").REDUCERS.get(name.lower()) if name[:1].isupper() else None
    if kind is None or kind.__name__ != name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return kind


def _public_names() -> list[str]:
    reducers = importlib.import_module(f"{__name__}.reducers").REDUCERS
    return sorted([*_MODULE_OF, *_MODULES, *(kind.__name__ for kind in reducers.values())])


def __dir__() -> list[str]:
    return sorted({*globals(), *_public_names()})
