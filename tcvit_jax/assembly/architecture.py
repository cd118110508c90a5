"""Construction of models, their weights and their preprocessing."""

from __future__ import annotations

import warnings
from dataclasses import asdict, fields, replace
from typing import Any

from tcvit_jax import checkpoint, convert, models, schedule
from tcvit_jax.assembly.records import Origin
from tcvit_jax.config import Data, Model, Reduction
from tcvit_jax.convert.sources import has_config, open_source
from tcvit_jax.convert.weight_source import WeightSource
from tcvit_jax.errors import cannot_read, invalid, requires
from tcvit_jax.models import ViT, zoo
from tcvit_jax.models.create import change_model
from tcvit_jax.models.image_preprocessing import Preprocessing

# Fields that the tensors reveal, that change the training only, or that are sizes of the task.
_NOT_COMPARED = (
    "img_size", "num_classes", "mlp_ratio", "mlp_hidden", "mlp_layer", "qkv_fused", "init_values", "fc_norm",
    "dist_head", "allow_remainder", "no_embed_class", "drop_rate", "pos_drop_rate", "proj_drop_rate",
    "drop_path_rate", "dtype",
)  # fmt: skip


def build_model(model: Model, reduction: Reduction) -> ViT:
    """Build a model.

    Args:
        model: The section of the architecture.
        reduction: The section of the reducer and its schedule.

    Returns:
        The model.

    Raises:
        InputError: Sizes of the model are inconsistent, the reduction does not fit the model, or the section has no
            name and its weights do not describe a model.
    """
    if model.name:
        return reduce(models.create_model(model.name, **model.overrides), reduction)
    if not model.weights:
        raise requires("model.name=''", "weights of a described model", "set model.name, or weights to a directory")
    meta = convert.read_meta(model.weights)
    if meta is not None:
        described = models.condense(models.from_config(meta["model"]))
        return reduce(change_model(described, model.overrides), reduction)
    described = _open(model).model
    if described is None:
        raise requires("model.name=''", "weights of a described model", f"set model.name for {model.weights}")
    return reduce(described, reduction)


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
    source = _open(model)
    if source.model is not None and source.has_config:
        _check_same(model, built, source.model)
    conversion = source.convert(built, new_head=model.new_head)
    for text in conversion.warnings:
        warnings.warn(f"weights for {built.variant}: {text}", stacklevel=2)
    return conversion.variables


def read_origin(model: Model, built: ViT) -> Origin:
    """Return what the `weights` of a section record, or the values of the model's name.

    Args:
        model: The section, with `weights` and `new_head`.
        built: The model that `build_model` made from the section.

    Returns:
        The origin. With a new head, it has no record of data, because any classes are valid.

    Raises:
        InputError: The source of the weights cannot be read, or is a directory without `preprocessor_config.json`.
    """
    if model.weights and has_config(model.weights):
        preprocessing = _open(model).preprocessing
        if preprocessing is None:
            raise cannot_read(model.weights, "preprocessor_config.json not found", "add it to the directory")
        return Origin(preprocessing)
    meta = convert.read_meta(model.weights) if model.weights else None
    if meta is None:
        return Origin(_default_preprocessing(built))
    if "preprocessing" not in meta and not zoo.is_generic(built.variant):
        meta = {**meta, "preprocessing": asdict(models.preprocessing(built.variant))}
    preprocessing = checkpoint.read_preprocessing(meta, model.weights)
    if list(built.img_size) != meta["model"]["overrides"].get("img_size", list(built.img_size)):
        preprocessing = preprocessing.at_other_size()
    origin = replace(Origin.from_meta(model.weights, meta), preprocessing=preprocessing)
    return replace(origin, record=None) if model.new_head else origin


def _open(model: Model) -> WeightSource:
    """Open the weights of a section. The model of a configuration has the sizes of the section."""
    return open_source(model.weights, overrides=model.overrides if has_config(model.weights) else {})


def _check_same(section: Model, built: ViT, described: ViT) -> None:
    """Raise an `InputError` unless a model is the one that its weights describe, but for overrides of the section."""
    for name in zoo.override_names(type(built)):
        actual, expected = getattr(built, name), getattr(described, name, None)
        if name not in _NOT_COMPARED and name not in section.overrides and actual != expected:
            problem = f"has {name}={actual!r}, expected {name}={expected!r} of {section.weights}"
            raise invalid(f"model.name={section.name!r}", problem, "set model.name='' for the model of the weights")


def _default_preprocessing(model: ViT) -> Preprocessing:
    """Return the preprocessing of a model that is trained from scratch, or takes a weight file of its name."""
    return zoo.get_entry(model.variant).preprocessing


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
    preprocessing = replace(base or _default_preprocessing(model), **changes)
    preprocessing.check_channels(model.in_chans, data.PREFIX)
    return preprocessing
