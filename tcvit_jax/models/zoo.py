"""The names a user types, timm's, with the sizes and the preprocessing that belong to each."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import numpy as np

from tcvit_jax import reducers
from tcvit_jax import schedule as schedules
from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models.vit import ViT
from tcvit_jax.reducers.base import Reducer


@dataclass(frozen=True)
class Preprocessing:
    """How a model's weights expect their images: timm's evaluation transform."""

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.9
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class Entry:
    """One name of the zoo: constructor arguments beside `ViT`'s defaults, and the preprocessing of its weights."""

    sizes: Mapping[str, Any]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


ZOO: dict[str, Entry] = {
    "deit_tiny_patch16_224": Entry({"embed_dim": 192, "num_heads": 3}),
    "deit_small_patch16_224": Entry({"embed_dim": 384, "num_heads": 6}),
    "deit_base_patch16_224": Entry({"embed_dim": 768, "num_heads": 12}),
    "deit_tiny_distilled_patch16_224": Entry({"embed_dim": 192, "num_heads": 3, "distilled": True}),
    "deit_small_distilled_patch16_224": Entry({"embed_dim": 384, "num_heads": 6, "distilled": True}),
    "deit_base_distilled_patch16_224": Entry({"embed_dim": 768, "num_heads": 12, "distilled": True}),
}
OVERRIDES = tuple(f.name for f in fields(ViT) if f.name not in {"variant", "reducer", "removed", "parent", "name"})


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a shell pattern, sorted; `list_models("deit*")`."""
    return sorted(fnmatch.filter(ZOO, pattern))


def _entry(name: str) -> Entry:
    if name not in ZOO:
        raise unknown("model", name, ZOO)
    return ZOO[name]


def preprocessing(name: str) -> Preprocessing:
    """Mean, standard deviation, crop and interpolation that belong to a model's weights."""
    return _entry(name).preprocessing


def create_model(
    name: str,
    reducer: Reducer | None = None,
    schedule: int | Sequence[int] | schedules.Schedule = 0,
    **overrides: Any,
) -> ViT:
    """A Vision Transformer by timm's name, condensed by `reducer`.

    Args:
        name: one of `list_models()`.
        reducer: the method, e.g. `GTP()`; `None` gives the plain model, whatever the schedule.
        schedule: patch tokens that leave each block: an int, a sequence, or an object of `schedule`.
        **overrides: any of `OVERRIDES`, timm's names; `img_size` is an int or a `(height, width)` pair.

    Returns:
        A Flax linen module. It holds no parameters: `model.init(key, images)` makes them, `convert` loads them.

    Raises:
        InputError: an unknown name, sizes that do not fit each other, a schedule that does not fit the model.
    """
    sizes = dict(_entry(name).sizes)
    for key, value in overrides.items():
        if key not in OVERRIDES:
            raise unknown(f"override of {name!r}:", key, OVERRIDES)
        sizes[key] = value
    size = sizes.get("img_size", ViT.img_size)
    sizes["img_size"] = (size, size) if isinstance(size, int) else tuple(size)
    model = ViT(variant=name, **sizes)
    _check_sizes(model)
    return condense(model, reducer, schedule)


def condense(model: ViT, reducer: Reducer | None = None, schedule: int | Sequence[int] | schedules.Schedule = 0) -> ViT:
    """The same model, condensed by another reducer and schedule (see `create_model`); its parameters are the same.

    Raises:
        InputError: a reducer or a schedule that does not fit the model.
    """
    model = replace(model, reducer=None, removed=())
    if reducer is None:
        return model
    if not isinstance(reducer, Reducer):
        raise InputError(f"reducer={reducer!r} is not a reducer: use tc.GTP(), for example")
    if reducer.needs_class_token and not model.class_token:
        raise InputError(f"class_token=False, and {reducer.needs_class_token}")
    model = replace(model, reducer=reducer)
    patches = model.grid[0] * model.grid[1]
    reducer.check(patches)
    removed = schedules.resolve(schedule, patches, model.depth, lambda counts: model.cost(counts).total, reducer.extra)
    return replace(model, removed=removed)


def _check_sizes(model: ViT) -> None:
    """Raise what a layer would otherwise trip over, in the words of the override that is wrong."""
    for key in ("patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "skip_lam"):
        if not getattr(model, key) > 0:
            raise InputError(f"{key}={getattr(model, key)} is not positive")
    for key in ("drop_rate", "pos_drop_rate", "proj_drop_rate", "drop_path_rate"):
        if not 0 <= getattr(model, key) < 1:
            raise InputError(f"{key}={getattr(model, key)} is not in [0, 1)")
    for side in model.img_size:
        if side % model.patch_size or side <= 0:
            nearest = max(model.patch_size, round(side / model.patch_size) * model.patch_size)
            raise InputError(f"img_size={side} is not a multiple of patch_size={model.patch_size}: use {nearest}")
    if model.embed_dim % model.num_heads:
        nearest = max(model.num_heads, round(model.embed_dim / model.num_heads) * model.num_heads)
        raise InputError(f"embed_dim={model.embed_dim} is not a multiple of num_heads={model.num_heads}: use {nearest}")
    if model.global_pool not in ("token", "avg"):
        raise unknown("global_pool", model.global_pool, ("token", "avg"))
    if model.global_pool == "token" and not model.class_token:
        raise InputError("global_pool='token' reads the class token, and class_token=False: use global_pool='avg'")
    if model.distilled and model.global_pool != "token":
        raise InputError(f"global_pool={model.global_pool!r} has no place for a distillation token: use 'token'")
    if model.dtype not in ("float32", "bfloat16"):
        raise unknown("dtype", model.dtype, ("float32", "bfloat16"))


def parameter_shapes(model: ViT) -> dict[str, Any]:
    """The tree of parameters that `model` expects, as `jax.ShapeDtypeStruct`; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *model.img_size, model.in_chans), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def count_parameters(model: ViT) -> int:
    """How many numbers `model` learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(model)))


def to_config(model: ViT) -> dict[str, Any]:
    """Everything that rebuilds `model`, as plain values for JSON; `from_config` is the inverse."""
    config = {key: getattr(model, key) for key in OVERRIDES}
    return {
        "name": model.variant,
        "overrides": {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        "reducer": reducers.to_config(model.reducer),
        "removed": list(model.removed),
    }


def from_config(config: Mapping[str, Any]) -> ViT:
    """The model that `to_config` wrote down."""
    reducer = reducers.from_config(config["reducer"])
    return create_model(config["name"], reducer, list(config["removed"]), **config["overrides"])
