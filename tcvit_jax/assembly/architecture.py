"""Construction of models, their weights and their preprocessing."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

from tcvit_jax import convert, models, schedule
from tcvit_jax.assembly.records import Origin
from tcvit_jax.config import Data, Model, Reduction
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing


def build_model(model: Model, reduction: Reduction) -> ViT:
    """Build a model.

    Args:
        model: The section of the architecture.
        reduction: The section of the reducer and its schedule.

    Returns:
        The model.

    Raises:
        InputError: Sizes of the model are inconsistent, or the reduction does not fit the model.
    """
    return reduce(models.create_model(model.name, **model.overrides), reduction)


def reduce(model: ViT, reduction: Reduction) -> ViT:
    """Return `model` with another reducer and schedule.

    Args:
        model: The model.
        reduction: The section of the reducer and its schedule.

    Returns:
        The model with the reduction.

    Raises:
        InputError: The reduction does not fit the model.
    """
    plan = schedule.budget(reduction.gmacs, reduction.schedule_family) if reduction.gmacs else reduction.schedule
    return models.condense(model, reduction.reducer, plan)


def load_weights(model: Model, built: ViT) -> dict[str, Any]:
    """Load the variables of a model from the `weights` of its section.

    Args:
        model: The section, with `weights` and `new_head`.
        built: The model that `build_model` made from the section.

    Returns:
        The variables.

    Raises:
        InputError: The weights cannot be read, or do not fit the model.
    """
    return convert.from_torch(convert.read_state_dict(model.weights), built, new_head=model.new_head)


def read_origin(model: Model, built: ViT) -> Origin:
    """Return what the `weights` of a section record, or the values of the model's name.

    Args:
        model: The section, with `weights` and `new_head`.
        built: The model that `build_model` made from the section.

    Returns:
        The origin. With a new head, it has no record of data, because any classes are valid.

    Raises:
        InputError: The checkpoint cannot be read.
    """
    meta = convert.read_meta(model.weights) if model.weights else None
    if meta is None:
        return Origin(models.preprocessing(built.variant))
    if "preprocessing" not in meta:
        meta = {**meta, "preprocessing": asdict(models.preprocessing(built.variant))}
    origin = Origin.from_meta(model.weights, meta)
    return replace(origin, record=None) if model.new_head else origin


def build_preprocessing(data: Data, model: ViT, base: Preprocessing | None = None) -> Preprocessing:
    """Return the preprocessing of a model's images.

    Args:
        data: The section whose values, where they are not None, replace those of `base`.
        model: The model.
        base: The preprocessing of the weights; None for that of the model's name.

    Returns:
        The preprocessing.

    Raises:
        InputError: `mean` or `std` does not have one value per channel.
    """
    changes = {each.name: getattr(data, each.name) for each in fields(Preprocessing)}
    changes = {name: value for name, value in changes.items() if value is not None}
    if "crop_pct" in changes:
        changes = {"resize": None, **changes}
    preprocessing = replace(base or models.preprocessing(model.variant), **changes)
    preprocessing.check_channels(model.in_chans, data.PREFIX)
    return preprocessing
