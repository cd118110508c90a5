"""From a name and overrides to a model, from one model to another, and from a model to plain values and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

import jax
import numpy as np

from tcvit_jax import reducers
from tcvit_jax import schedule as schedules
from tcvit_jax.errors import InputError, as_integer, requires, unknown
from tcvit_jax.models import zoo
from tcvit_jax.models.vit import ViT
from tcvit_jax.reducers.base import Reducer


def create_model(
    name: str,
    reducer: Reducer | None = None,
    schedule: int | Sequence[int] | schedules.Schedule = 0,
    **overrides: Any,
) -> ViT:
    """A Vision Transformer by timm's name, condensed by `reducer`.

    Args:
        name: one of `list_models()`, with or without a tag.
        reducer: the method, e.g. `GTP()`; `None` gives the plain model, whatever the schedule.
        schedule: patch tokens that leave each block: an int, a sequence, or an object of `schedule`.
        **overrides: any of `zoo.override_names`, timm's names; `img_size` is an int or a `(height, width)` pair.

    Returns:
        A Flax linen module. It holds no parameters: `model.init(key, images)` makes them, `convert` loads them.

    Raises:
        InputError: an unknown name, sizes that do not fit each other, a schedule that does not fit the model.
    """
    entry = zoo.get_entry(name)
    sizes, known = dict(entry.overrides), zoo.override_names(entry.architecture)
    for key, value in overrides.items():
        if key not in known:
            raise unknown(f"override of {name!r}:", key, known)
        sizes[key] = as_integer(key, value) if type(getattr(entry.architecture, key)) is int else value
    sizes["img_size"] = _sides(sizes.get("img_size", ViT.img_size))
    model = entry.architecture(variant=name, **sizes)
    model.check()
    return condense(model, reducer, schedule)


def condense(model: ViT, reducer: Reducer | None = None, schedule: int | Sequence[int] | schedules.Schedule = 0) -> ViT:
    """The same model, condensed by another reducer and schedule (see `create_model`); its parameters are the same.

    Raises:
        InputError: a reducer or a schedule that does not fit the model.
    """
    model = replace(model, reducer=None, removed=())
    if reducer is None:
        return model
    if not isinstance(reducer, Reducer):  # pyright: ignore[reportUnnecessaryIsInstance]  (users pass names, too)
        raise InputError(f"reducer={reducer!r} is not a reducer: use tc.GTP(), for example")
    if reducer.needs_class_token and not model.class_token:
        raise requires(f"reducer={reducer!r}", "class_token=True", reducer.CLASS_TOKEN_ADVICE)
    model = replace(model, reducer=reducer)
    patches = model.grid[0] * model.grid[1]
    stack = schedules.Stack(
        patches,
        model.depth,
        cost=lambda counts: model.cost(counts).total,
        extra_tokens=reducer.extra_tokens,
        max_removable=lambda left: reducer.max_removable(left, model.prefix),
        family=reducer.DEFAULT_SCHEDULE,
    )
    removed = schedules.resolve(schedule, stack)
    reducer.check(patches, removed)
    return replace(model, removed=removed)


def _sides(size: Any) -> tuple[int, int]:
    """`img_size` as height and width."""
    sides = (size, size)
    if isinstance(size, Sequence) and not isinstance(size, str):
        sides = tuple(cast("Sequence[Any]", size))
    if len(sides) != 2:
        raise InputError(f"img_size={size!r} should be one number, or height and width")
    return as_integer("img_size", sides[0]), as_integer("img_size", sides[1])


@cache
def _variable_shapes(model: ViT) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, *model.img_size, model.in_chans), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def variable_shapes(model: ViT) -> dict[str, Any]:
    """The tree of variables that `model` expects, as `jax.ShapeDtypeStruct`; nothing is computed.

    `"params"`, and where the model has any `"batch_stats"`. A reducer has none.
    """
    plain = replace(model, variant="", reducer=None, removed=())
    return _variable_shapes(plain)  # pyright: ignore[reportArgumentType]  (Flax makes modules hashable)


def parameter_shapes(model: ViT) -> dict[str, Any]:
    """Of `variable_shapes`, what is learned."""
    return variable_shapes(model)["params"]


def count_parameters(model: ViT) -> int:
    """How many numbers `model` learns."""
    leaves: list[jax.ShapeDtypeStruct] = jax.tree.leaves(parameter_shapes(model))
    return sum(leaf.size for leaf in leaves)


def to_config(model: ViT) -> dict[str, Any]:
    """Everything that rebuilds `model`, as plain values for JSON; `from_config` is the inverse."""
    config: dict[str, Any] = {key: getattr(model, key) for key in zoo.override_names(type(model))}
    return {
        "name": model.variant,
        "overrides": {
            key: list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
            for key, value in config.items()
        },
        "reducer": reducers.to_config(model.reducer),
        "removed": list(model.removed),
    }


def from_config(config: Mapping[str, Any]) -> ViT:
    """The model that `to_config` wrote down."""
    reducer = reducers.from_config(config["reducer"])
    return create_model(config["name"], reducer, list(config["removed"]), **config["overrides"])
