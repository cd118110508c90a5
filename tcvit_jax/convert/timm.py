"""A timm state dict as our variables: names by one table of rules, layouts by the kind of the parameter."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT, parameter_shapes

# Our path -> timm's name; the first rule that matches is taken, and a path no rule matches keeps its name.
RULES: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.kernel$", "patch_embed.proj.weight"),
    (r"^patch_embed\.bias$", "patch_embed.proj.bias"),
    (r"^blocks_(\d+)\.(.*)\.(?:kernel|scale)$", r"blocks.\1.\2.weight"),
    (r"^blocks_(\d+)\.", r"blocks.\1."),
    (r"^(.*)\.(?:kernel|scale)$", r"\1.weight"),
)


def timm_name(path: tuple[str, ...]) -> str:
    """timm's name of one of our parameters: `("blocks_0", "attn", "qkv", "kernel")` -> `blocks.0.attn.qkv.weight`."""
    ours = ".".join(path)
    for pattern, replacement in RULES:
        renamed, hits = re.subn(pattern, replacement, ours)
        if hits:
            return renamed
    return ours


def _our_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """torch keeps kernels `[out, in, (h, w)]`; ours are `[(h, w,) in, out]`."""
    if path[-1] != "kernel" or value.ndim not in (2, 4):
        return value
    return value.T if value.ndim == 2 else np.transpose(value, (2, 3, 1, 0))


def from_torch(state_dict: Mapping[str, Any], model: ViT) -> dict[str, Any]:
    """The variables of `model` from a timm state dict.

    Args:
        state_dict: timm's names to arrays: NumPy, torch, or anything `np.asarray` takes.
        model: from `create_model`, of the same sizes. Reducers have no parameters, so any of them fits.

    Returns:
        `{"params": ...}`, float32.

    Raises:
        InputError: names missing, names nobody reads, or shapes that differ; all of them, in one line.
    """
    expected: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(parameter_shapes(model))
    names = {path: timm_name(path) for path in expected}
    unread = sorted(set(state_dict) - set(names.values()))
    problems, params = [], {}
    for path, name in names.items():
        if name not in state_dict:
            near = difflib.get_close_matches(name, unread, n=1)
            problems.append(f"{name} is missing" + (f" (there is {near[0]})" if near else ""))
            continue
        value = _our_layout(path, _to_numpy(state_dict[name]))
        if value.shape != expected[path].shape:
            problems.append(f"{name} has shape {value.shape} in our layout, the model's is {expected[path].shape}")
        params[path] = value
    problems += [f"{name} has no place in the model" for name in unread]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InputError(f"the weights do not fit {model.variant}: {shown}")
    return {"params": traverse_util.unflatten_dict(params)}


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        # torch has no NumPy counterpart of bfloat16, so half precisions are widened on its side.
        value = value.detach().cpu().float().numpy()
    return np.asarray(value, np.float32)
