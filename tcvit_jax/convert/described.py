"""Models that the configuration of a directory of transformers or timm describes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tcvit_jax import models
from tcvit_jax.convert import timm_config, transformers
from tcvit_jax.convert.directory import Directory
from tcvit_jax.convert.processor import read_processor
from tcvit_jax.convert.weight_file import WeightFile
from tcvit_jax.convert.weight_source import WeightSource
from tcvit_jax.errors import InputError, cannot_read
from tcvit_jax.models import ViT

# Families of transformers that resample their position embeddings, or have none, for images of any size. Their size is
# that of their image processor; all others require the size of their configuration.
ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit")


def describe(label: str, directory: Directory, weights: WeightFile, overrides: Mapping[str, Any]) -> WeightSource:
    """Return the source of weights in a directory of transformers or timm, whose configuration describes the model.

    Args:
        label: Name of the directory or its repository, for reports.
        directory: The directory.
        weights: Its tensors.
        overrides: Overrides of `create_model`.

    Raises:
        InputError: The configuration has a field that cannot be honored, or does not match the tensors.
    """
    if directory.kind == "timm":
        name, arguments, preprocessing, labels = timm_config.read_config(directory.config, directory.config_path)
        _check_depth(arguments, weights, directory.config_path)
        model = _create(name, arguments, overrides, directory.config_path)
        num_classes = arguments.get("num_classes", models.create_model(name).num_classes)
        return _with_labels(WeightSource(label, weights, model, num_classes, preprocessing, has_config=True), labels)
    return _describe_transformers(label, directory, weights, overrides)


def _check_depth(arguments: Mapping[str, Any], weights: WeightFile, path: Path) -> None:
    """Check the number of blocks before a model with as many is created."""
    if "depth" in arguments:
        matches = (re.search(r"(?:^|\.)blocks\.(?:\d+\.)?(\d+)\.", name) for name in weights)
        count = len({match[1] for match in matches if match})
        if arguments["depth"] != count:
            problem = f"must be {count}, because the file has {count} blocks"
            raise cannot_read(path, f"model_args.depth={arguments['depth']!r}: {problem}")


def _create(name: str, described: Mapping[str, Any], overrides: Mapping[str, Any], path: Path) -> ViT:
    """Create the model of a configuration, whose path is in its errors, with the overrides of the caller."""
    try:
        return models.create_model(name, **{**described, **overrides})
    except InputError as error:
        if any(str(error).startswith(f"{key}=") for key in overrides):
            raise
        raise cannot_read(path, str(error)) from error


def _describe_transformers(
    label: str, directory: Directory, weights: WeightFile, overrides: Mapping[str, Any]
) -> WeightSource:
    shapes = {name: weights.shape(name) or () for name in weights}
    description = transformers.read_config(directory.config, directory.config_path, shapes)
    preprocessing, img_size, processed_size = None, description.image_size, None
    if directory.processor is not None:
        preprocessing, processed_size = read_processor(
            directory.processor, description.model_type, directory.processor_path
        )
        img_size = processed_size if description.model_type in ANY_SIZE else img_size
    model = _create("vit", {**description.overrides, "img_size": img_size}, overrides, directory.config_path)
    if preprocessing is not None and model.img_size != processed_size:
        preprocessing = preprocessing.at_other_size()
    source = WeightSource(
        label, weights, model, description.overrides["num_classes"], preprocessing,
        has_config=True, model_type=description.model_type, resampling=description.resampling,
        grid=_grid_of(description, model, directory.config_path), ignored=description.ignored, notes=description.notes,
    )  # fmt: skip
    return _with_labels(source, description.labels)


def _grid_of(description: transformers.Description, model: ViT, path: Path) -> tuple[int, int] | None:
    """Return the patch grid of the position embeddings as transformers takes it.

    It is that of the configuration if the images have the size of the configuration. To resample them, and always in
    families that accept any size, transformers takes it for a square.

    Raises:
        InputError: The number of patches is not that of a square.
    """
    if model.pos_embed == "none":
        return None
    height, width = (side // description.overrides["patch_size"] for side in description.image_size)
    if model.img_size == description.image_size and description.model_type not in ANY_SIZE:
        return height, width
    side = math.isqrt(height * width)
    if side * side != height * width:
        problem = f"image_size={list(description.image_size)}: must have a square number of patches"
        raise cannot_read(path, problem, f"transformers cannot resample its positions for img_size={model.img_size}")
    return side, side


def _with_labels(source: WeightSource, labels: list[str] | None) -> WeightSource:
    """Return a source with the names of its classes if the model has as many."""
    is_same = source.model is not None and source.model.num_classes == source.num_classes
    return replace(source, classes=labels if is_same else None)
