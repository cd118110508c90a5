"""Configurations: typed sections, the files that set their keys, and `--config.KEY=VALUE` overrides.

`load` reads a file and returns a `Config`, the only form that the rest of the package uses. `ConfigDict` and override
strings appear in `files` only.
"""

from tcvit_jax.config.checks import DENSE
from tcvit_jax.config.configuration import Config
from tcvit_jax.config.files import EVALUATION_KEYS, REDUCTION_KEYS, Scope, default, load, load_module, override, read
from tcvit_jax.config.model import Model, Reduction
from tcvit_jax.config.saved import canonicalize, restore
from tcvit_jax.config.sections import Data, Distillation, Mesh, Mixing, Optimizer, ReductionWarmup, Run

__all__ = [
    "DENSE",
    "EVALUATION_KEYS",
    "REDUCTION_KEYS",
    "Config",
    "Data",
    "Distillation",
    "Mesh",
    "Mixing",
    "Model",
    "Optimizer",
    "Reduction",
    "ReductionWarmup",
    "Run",
    "Scope",
    "canonicalize",
    "default",
    "load",
    "load_module",
    "override",
    "read",
    "restore",
]  # fmt: skip
