"""Configurations: typed sections, the files that set their keys, and `--config.KEY=VALUE` overrides.

`load` reads a file to a `Config`, which is all that the rest of the package sees. `ConfigDict` and override strings are
known to `files` alone.
"""

from tcvit_jax.config.checks import DENSE
from tcvit_jax.config.configuration import Config
from tcvit_jax.config.files import EVALUATION, REDUCTION, Scope, default, load, module, override, read
from tcvit_jax.config.model import Model, Reduction
from tcvit_jax.config.saved import canonicalize, restore
from tcvit_jax.config.sections import Data, Distillation, Mesh, Mixing, Optimizer, ReductionWarmup, Run

__all__ = [
    "DENSE",
    "EVALUATION",
    "REDUCTION",
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
    "module",
    "override",
    "read",
    "restore",
]  # fmt: skip
