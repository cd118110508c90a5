"""Models, their weights and their preprocessing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from tcvit_jax import convert, models, schedule
from tcvit_jax.config import Data, Model, Reduction
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing


def build_model(model: Model, reduction: Reduction) -> ViT:
    """Return the model that two sections describe.

    Raises:
        InputError: sizes that do not fit each other, or a reduction that does not fit the model.
    """
    return reduce(models.create_model(model.name, **model.overrides), reduction)


def reduce(model: ViT, reduction: Reduction) -> ViT:
    """Return `model` with the reducer and the schedule of a section.

    Raises:
        InputError: a reduction that does not fit the model.
    """
    plan = schedule.budget(reduction.gmacs, reduction.schedule_family) if reduction.gmacs else reduction.schedule
    return models.condense(model, reduction.reducer, plan)


def load_weights(model: Model, built: ViT) -> dict[str, Any]:
    """Return the variables of `built`, which a section describes, from its `weights`.

    Raises:
        InputError: weights that cannot be read, or that do not fit.
    """
    return convert.from_torch(convert.read_state_dict(model.weights), built, new_head=model.new_head)


def build_preprocessing(data: Data, model: ViT, base: Preprocessing | None = None) -> Preprocessing:
    """Return the preprocessing of `model`'s images.

    Args:
        data: what it sets replaces `base`.
        model: the model.
        base: by default the preprocessing of the model's name.

    Raises:
        InputError: `mean` or `std` for another number of channels than the model's.
    """
    changes = {each.name: getattr(data, each.name) for each in fields(Preprocessing)}
    changes = {name: value for name, value in changes.items() if value is not None}
    preprocessing = replace(base or models.preprocessing(model.variant), **changes)
    for name in ("mean", "std"):
        if len(getattr(preprocessing, name)) != model.in_chans:
            raise InputError(
                f"data.{name}={getattr(preprocessing, name)}: must be one value for each of {model.in_chans} channels"
            )
    return preprocessing
