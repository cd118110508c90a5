"""Create models by name, replace their reducer, and convert them to and from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

import jax
import numpy as np

from tcvit_jax import reducers
from tcvit_jax import schedule as schedules
from tcvit_jax.errors import as_integer, invalid, kind_of, out_of_range, requires, unknown
from tcvit_jax.models import zoo
from tcvit_jax.models.checks import check_keys
from tcvit_jax.models.vit import ViT
from tcvit_jax.reducers.base import Reducer


def create_model(
    name: str,
    reducer: Reducer | None = None,
    schedule: int | Sequence[int] | schedules.Schedule = 0,
    **overrides: Any,
) -> ViT:
    """Create a Vision Transformer by its timm name, optionally with token reduction.

    Args:
        name: One of `list_models()`, with or without a tag, or `"vit"` for a model without published weights whose
            overrides determine all sizes.
        reducer: Token reduction method, such as `GTP()`. None gives the plain model, whatever the schedule.
        schedule: Number of patch tokens to remove in each block: an int, a sequence or an array, or an object of
            `schedule`.
        **overrides: Any of `zoo.override_names`, with timm's names. `img_size` is an int or a `(height, width)` pair.

    Returns:
        A Flax linen module without parameters: initialize them with `model.init(key, images)` or load them with
        `convert`.

    Raises:
        InputError: The name is unknown, an override is invalid, or the schedule does not fit the model.
    """
    entry = zoo.get_entry(name)
    arguments, valid_names = dict(entry.overrides), zoo.override_names(entry.architecture)
    for key, value in overrides.items():
        if key not in valid_names:
            raise unknown(f"{entry.architecture.__name__} override", key, valid_names)
        arguments[key] = as_integer(key, value) if type(getattr(entry.architecture, key)) is int else value
    arguments["img_size"] = _height_and_width(arguments.get("img_size", ViT.img_size))
    model = entry.architecture(variant=name, **arguments)
    model.check()
    return condense(model, reducer, schedule)


def check_model(model: object) -> None:
    """Raise an `InputError` unless `model` is a model of `create_model`."""
    if not isinstance(model, ViT):
        raise invalid("model", f"expected a model of tc.create_model, got {kind_of(model)}")


def condense(model: ViT, reducer: Reducer | None = None, schedule: int | Sequence[int] | schedules.Schedule = 0) -> ViT:
    """Return a copy of a model with another reducer and schedule. Its parameters stay the same.

    Args:
        model: Model of `create_model`; its own reducer and schedule are ignored.
        reducer: Token reduction method, or None for the plain model.
        schedule: Number of patch tokens to remove in each block, as in `create_model`.

    Raises:
        InputError: The reducer or the schedule does not fit the model.
    """
    check_model(model)
    model = replace(model, reducer=None, removed=())
    if reducer is None:
        return model
    if not isinstance(reducer, Reducer):  # pyright: ignore[reportUnnecessaryIsInstance]  (users also pass names)
        raise out_of_range("reducer", reducer, "a Reducer", "use tc.GTP(), for example")
    if reducer.needs_class_token and not model.class_token:
        raise requires(f"reducer={reducer!r}", "class_token=True", reducer.CLASS_TOKEN_ADVICE)
    model = replace(model, reducer=reducer)
    patches = model.grid[0] * model.grid[1]
    stack = schedules.Stack(
        patches,
        model.depth,
        cost=lambda counts: model.cost(counts).total,
        extra_tokens=reducer.extra_tokens,
        max_removable=lambda left: reducer.lower_count(left, model.prefix, left - 1, model.grid),
        lower_count=lambda left, count: reducer.lower_count(left, model.prefix, count, model.grid),
        family=reducer.DEFAULT_SCHEDULE,
    )
    removed = schedules.resolve(schedule, stack)
    reducer.check(patches, removed)
    return replace(model, removed=removed)


def _height_and_width(img_size: Any) -> tuple[int, int]:
    sides: tuple[Any, ...] = (img_size, img_size)
    if isinstance(img_size, Sequence) and not isinstance(img_size, str):
        sides = tuple(cast("Sequence[Any]", img_size))
    if len(sides) != 2:
        raise out_of_range("img_size", cast("object", img_size), "an integer or (height, width)")
    return as_integer("img_size", sides[0]), as_integer("img_size", sides[1])


def change_model(model: ViT, changes: Mapping[str, Any]) -> ViT:
    """Return a copy of a model with other overrides, and with its reducer and schedule.

    Args:
        model: Model of `create_model`.
        changes: Overrides of `create_model`.

    Raises:
        InputError: An override is invalid, or the schedule does not fit the number of patches.
    """
    if not changes:
        return model
    config = to_config(model)
    return from_config({**config, "overrides": {**config["overrides"], **changes}})


@cache
def _variable_shapes(model: ViT) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, *model.img_size, model.in_chans), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def variable_shapes(model: ViT) -> dict[str, Any]:
    """Return the shapes and dtypes of a model's variables without computing anything.

    Reducers have no variables, so they do not change the result.

    Returns:
        A tree of `jax.ShapeDtypeStruct` with the collections `"params"` and, if the model has any, `"batch_stats"`.

    Raises:
        InputError: `model` is not a model of `create_model`.
    """
    check_model(model)
    plain = replace(model, variant="", reducer=None, removed=())
    return _variable_shapes(plain)  # pyright: ignore[reportArgumentType]  (Flax makes modules hashable)


def parameter_shapes(model: ViT) -> dict[str, Any]:
    """Return the shapes and dtypes of a model's trainable parameters."""
    return variable_shapes(model)["params"]


def count_parameters(model: ViT) -> int:
    """Return the number of trainable parameters of a model."""
    leaves: list[jax.ShapeDtypeStruct] = jax.tree.leaves(parameter_shapes(model))
    return sum(leaf.size for leaf in leaves)


def to_config(model: ViT) -> dict[str, Any]:
    """Return plain values for JSON that define a model. `from_config` is the inverse.

    Raises:
        InputError: `model` is not a model of `create_model`.
    """
    check_model(model)
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
    """Create the model that `to_config` describes.

    Raises:
        InputError: A key is missing or unknown, or a value is invalid. The message names the first one.
    """
    check_keys("model", config, ("name", "overrides", "reducer", "removed"))
    overrides, removed = config["overrides"], config["removed"]
    if not isinstance(overrides, Mapping):
        raise invalid("model.overrides", f"expected a mapping, got {kind_of(overrides)}")
    if not isinstance(removed, list | tuple):
        raise invalid("model.removed", f"expected a list of integers, got {kind_of(removed)}")
    reducer = reducers.from_config(config["reducer"])
    return create_model(config["name"], reducer, list(cast("Sequence[Any]", removed)), **overrides)
