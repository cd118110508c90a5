"""Weights from a file, a directory, a repository of the Hugging Face Hub, or a checkpoint, with their model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from tcvit_jax import checkpoint, files, models
from tcvit_jax.convert import hub, timm_config, transformers
from tcvit_jax.convert.directory import (
    Directory,
    is_directory,
    open_directory,
    open_weights,
    read_model_type,
    read_processor_file,
)
from tcvit_jax.convert.files import detect_kind, read_file
from tcvit_jax.convert.formats import Source, format_of
from tcvit_jax.convert.mapping import Conversion, convert, to_torch
from tcvit_jax.convert.names import strip_prefixes
from tcvit_jax.convert.processor import read_processor
from tcvit_jax.convert.weight_file import WeightFile
from tcvit_jax.errors import InputError, cannot_read, conflicts
from tcvit_jax.models import ViT, zoo
from tcvit_jax.models.create import change_model
from tcvit_jax.models.image_preprocessing import Preprocessing

# Families of transformers that resample their position embeddings, or have none, for images of any size. Their size is
# that of their image processor; all others require the size of their configuration.
ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit")


@dataclass(frozen=True)
class WeightSource:
    """Weights, and what their source says about them.

    Attributes:
        label: The repository, or the name of the file or directory, for reports.
        weights: The tensors.
        model: The model of the source, with the requested overrides; None for a weight file without a name of a model.
        num_classes: Number of classes of the source; None if only the tensors say it.
        preprocessing: Preprocessing of its images at the size of `model`, or None if the source has none.
        classes: Names of the classes, or None if the source has none or the number of classes is another.
        has_config: Whether `config.json` of a directory describes the model.
        meta: Metadata of a checkpoint, or of a file that was exported from one, or None.
        model_type: Type of the model in the configuration of transformers, or "".
        resampling: Method and antialiasing for position embeddings; None for that of timm.
        grid: Patch grid of the position embeddings; None for that of the file, or else a square.
        ignored: Regular expressions of canonical names of tensors that the model does not use.
        notes: What was not read from the configuration, one sentence each.
    """

    label: str
    weights: WeightFile
    model: ViT | None = None
    num_classes: int | None = None
    preprocessing: Preprocessing | None = None
    classes: list[str] | None = None
    has_config: bool = False
    meta: dict[str, Any] | None = None
    model_type: str = ""
    resampling: tuple[str, bool] | None = None
    grid: tuple[int, int] | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def convert(
        self,
        model: ViT,
        *,
        new_head: bool = False,
        grid: tuple[int, int] | None = None,
        keep_dtype: bool = False,
        adapt_patch_embed: bool = False,
    ) -> Conversion:
        """Convert the weights to the variables of a model, usually `self.model`, as `mapping.convert` does."""
        return convert(
            self.weights, model, new_head=new_head, grid=grid or self.grid, resampling=self.resampling,
            keep_dtype=keep_dtype, adapt_patch_embed=adapt_patch_embed, ignored=self.ignored,
        )  # fmt: skip


@dataclass(frozen=True)
class _Location:
    """Where a source is.

    Attributes:
        label: The repository, or the name of the file or directory.
        path: The file or directory, downloaded if necessary.
        repo: The repository, or None for a path.
    """

    label: str
    path: Path
    repo: str | None


def is_checkpoint(source: str | Path) -> bool:
    """Return whether a source is a checkpoint, a directory that `checkpoint.load` reads."""
    path = _expand(source)
    return path.is_dir() and not is_directory(path)


def has_config(source: str | Path) -> bool:
    """Return whether `config.json` of a directory or of a repository, which is not downloaded, describes the model."""
    repo = _repository(source)
    return is_directory(_expand(source)) if repo is None else not hub.is_published(repo)


def open_source(
    source: str | Path,
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    entry: str | None = None,
    prefix: str = "",
    ignore: Sequence[str] = (),
) -> WeightSource:
    """Open weights, and create their model. No tensor is read, unless the source is a checkpoint.

    Args:
        source: As in `read_state_dict`.
        name: Name of the model. It is required for a weight file that was not exported from a checkpoint. For a
            directory it takes the place of `config.json`, so that sizes, epsilon, activation and resampling are those
            of `name`.
        overrides: Overrides of `create_model`, such as `img_size` and `num_classes`.
        entry: As in `read_state_dict`.
        prefix: As in `read_state_dict`.
        ignore: As in `read_state_dict`.

    Returns:
        The weights, their model and their preprocessing. The model of a checkpoint has its reducer.

    Raises:
        InputError: The source cannot be read, as in `read_state_dict`, its configuration has a field that cannot be
            honored, or does not match its tensors.
    """
    overrides = dict(overrides or {})
    opened = _open(source, name, overrides, entry, prefix, ignore)
    return _fit_channels(opened) if "in_chans" in overrides else opened


def _open(
    source: str | Path,
    name: str | None,
    overrides: Mapping[str, Any],
    entry: str | None,
    prefix: str,
    ignore: Sequence[str],
) -> WeightSource:
    repo = _repository(source)
    if name is None and repo is not None and hub.is_published(repo):
        name = zoo.name_from_repository(repo)
    # An error of the model is reported before anything is downloaded.
    model = None if name is None else models.create_model(zoo.full_name(name), **overrides)
    location = _locate(source, is_named=name is not None)
    if model is None and is_directory(location.path):
        return _open_directory(location, overrides, entry, prefix, ignore)
    if is_checkpoint(location.path):
        return _open_checkpoint(location, overrides, entry, prefix, ignore)
    weights = _read_weights(location.path, entry).select(prefix, ignore)
    meta = read_meta(location.path)
    if model is None and meta is not None:
        model = _model_of(meta, overrides, location.path)
    preprocessing = None if model is None else _preprocessing_of(model, location.path)
    opened = WeightSource(location.label, weights, model, preprocessing=preprocessing)
    return opened if meta is None else _with_meta(opened, meta)


def _preprocessing_of(model: ViT, path: Path) -> Preprocessing:
    """Return the preprocessing in a directory at the size of a named model, or else that of the name."""
    processor, file = read_processor_file(path) if is_directory(path) else (None, path)
    if processor is None:
        return zoo.preprocessing(model.variant)
    preprocessing, img_size = read_processor(processor, read_model_type(path), file)
    return preprocessing if model.img_size == img_size else preprocessing.at_other_size()


def _fit_channels(source: WeightSource) -> WeightSource:
    """Return a source whose preprocessing has a mean and a standard deviation for each channel of the model."""
    model, preprocessing = source.model, source.preprocessing
    if model is None or preprocessing is None or len(preprocessing.mean) == model.in_chans:
        return source
    values = {"mean": preprocessing.mean, "std": preprocessing.std}
    if model.in_chans == 1:
        values = {name: (sum(each) / len(each),) for name, each in values.items()}
        note = "mean and std of the preprocessing are averages over the channels of the source"
    else:
        values = {name: tuple(islice(cycle(each), model.in_chans)) for name, each in values.items()}
        note = "mean and std of the preprocessing repeat those of the source"
    return replace(source, preprocessing=replace(preprocessing, **values), notes=(*source.notes, note))


def _model_of(meta: Mapping[str, Any], overrides: Mapping[str, Any], path: Path) -> ViT:
    """Return the model of the checkpoint that a file was exported from, with its reducer and other overrides."""
    try:
        model = models.from_config(meta["model"])
    except InputError as error:
        raise cannot_read(path, f"model in its metadata: {error}") from error
    return change_model(model, overrides)


def read_meta(source: str | Path) -> dict[str, Any] | None:
    """Read the metadata of a source that is a checkpoint, or a `.safetensors` file that was exported from one.

    Args:
        source: As for `read_state_dict`.

    Returns:
        The metadata, as `load` returns it; None if the source has none. An exported file has only what describes the
        model and its data.

    Raises:
        InputError: The source cannot be read.
    """
    path = _expand(source)
    if is_checkpoint(path):
        return checkpoint.read_meta(path)
    if not path.is_file() or detect_kind(path) != "safetensors":
        return None
    text = read_file(path).meta
    return checkpoint.parse_meta(text, path) if text else None


def read_state_dict(
    source: str | Path, entry: str | None = None, *, prefix: str = "", ignore: Sequence[str] = ()
) -> WeightFile:
    """Read named tensors from a file, a directory, a Hugging Face repository, or a checkpoint.

    Code in pickled files or in repositories is never executed.

    Args:
        source: A `.safetensors` file; a `.npz` file of AugReg, big_vision or scenic; a file of `torch.save` (requires
            torch, and is read with `weights_only=True`), whatever its suffix; a directory of transformers or timm, with
            `config.json` and weights in one file or several; `hf-hub:ORG/NAME` or `ORG/NAME`; or a directory for
            `load`, whose averaged weights are preferred.
        entry: Key of the tensors in a torch checkpoint; by default the first of `state_dict_ema`, `model_ema`,
            `state_dict`, `model`, `network`, `teacher` and `student`, or else the checkpoint itself. For a checkpoint,
            `"ema"` or `"variables"`.
        prefix: Only tensors whose name starts with it are read, without it in their names, such as `"backbone."`.
        ignore: Shell patterns of names of tensors that are left out, such as `"projector.*"`.

    Returns:
        A mapping for `from_torch` that reads its tensors one at a time.

    Raises:
        InputError: The source is not found, has an unknown format or cannot be read, torch is not installed, or no
            tensor has the prefix or matches a pattern.
    """
    location = _locate(source)
    if is_checkpoint(location.path):
        return _open_checkpoint(location, {}, entry, prefix, ignore).weights
    return _read_weights(location.path, entry).select(prefix, ignore)


def count_classes(weights: WeightFile, model: ViT) -> int | None:
    """Return the number of classes of the classifier in a weight file, or None if it has no classifier.

    Args:
        weights: The tensors.
        model: The model of the file, with any number of classes.
    """
    file_format = format_of(weights)
    classifiers = model.PARAMETERS.classifier_tensors(file_format.name)
    for name in weights:
        for stripped in strip_prefixes(name):
            canonical_name, change = file_format.canonical_name(stripped)
            shape = weights.shape(name)
            if canonical_name in classifiers and shape:
                # Kernels of Flax are transposed.
                return Source((name,), change=change).shape([shape])[-1 if "/" in canonical_name else 0]
    return None


def _expand(source: str | Path) -> Path:
    return Path(files.expand(str(source), "source"))


def _repository(source: str | Path) -> str | None:
    return None if isinstance(source, Path) else hub.repository(source)


def _locate(source: str | Path, is_named: bool = False) -> _Location:
    """Return where a source is, and download a repository: only its weights if `is_named`, as for a published one."""
    repo = _repository(source)
    if repo is None:
        path = _expand(source)
        return _Location(path.name or path.resolve().name, path, None)
    path = hub.download(repo) if is_named or hub.is_published(repo) else hub.download_directory(repo)
    return _Location(repo, path, repo)


def _read_weights(path: Path, entry: str | None) -> WeightFile:
    """Open the weights of a file or a directory."""
    if not is_directory(path):
        return read_file(path, entry)
    if entry is not None:
        raise conflicts(f"entry={entry!r}", f"the directory {path}", "pass the path of a file")
    return open_weights(path)


def _open_checkpoint(
    location: _Location, overrides: Mapping[str, Any], entry: str | None, prefix: str, ignore: Sequence[str]
) -> WeightSource:
    """Open a checkpoint, whose variables are read."""
    path = location.path
    model, variables, meta = checkpoint.load(path, entry)
    tensors = to_torch(variables, model)
    weights = WeightFile(
        path, tuple(tensors), tensors.__getitem__, lambda name: tensors[name].shape, kind="checkpoint", grid=model.grid
    ).select(prefix, ignore)
    changed = change_model(model, overrides)
    return _with_meta(WeightSource(location.label, weights, changed, model.num_classes), meta)


def _with_meta(source: WeightSource, meta: Mapping[str, Any]) -> WeightSource:
    """Return a source with what the metadata of a checkpoint say about its weights."""
    path, model, saved = source.weights.path, source.model, meta["model"]["overrides"]
    preprocessing = source.preprocessing
    if "preprocessing" in meta:
        preprocessing = checkpoint.read_preprocessing(meta, path)
        if model is not None and saved.get("img_size") != list(model.img_size):
            preprocessing = preprocessing.at_other_size()
    is_same = model is None or saved.get("num_classes") == model.num_classes
    return replace(
        source, preprocessing=preprocessing, classes=meta.get("classes") if is_same else None, meta=dict(meta),
        model_type=str(meta.get("provenance", {}).get("model_type", "")),
        resampling=checkpoint.read_resampling(meta, path),
    )  # fmt: skip


def _open_directory(
    location: _Location, overrides: Mapping[str, Any], entry: str | None, prefix: str, ignore: Sequence[str]
) -> WeightSource:
    """Open a directory of transformers or timm, whose configuration describes the model."""
    directory = open_directory(location.path)
    weights = _read_weights(location.path, entry).select(prefix, ignore)
    if directory.kind == "timm":
        name, arguments, preprocessing, labels = timm_config.read_config(directory.config, directory.config_path)
        _check_depth(arguments, weights, directory.config_path)
        model = _create(name, arguments, overrides, directory.config_path)
        num_classes = arguments.get("num_classes", models.create_model(name).num_classes)
        return _with_labels(
            WeightSource(location.label, weights, model, num_classes, preprocessing, has_config=True), labels
        )
    return _open_transformers(directory, location, weights, overrides)


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


def _open_transformers(
    directory: Directory, location: _Location, weights: WeightFile, overrides: Mapping[str, Any]
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
        location.label, weights, model, description.overrides["num_classes"], preprocessing,
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
