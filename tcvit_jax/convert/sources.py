"""Weights from a file, a directory, a repository of the Hugging Face Hub, or a checkpoint, with their model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tcvit_jax import checkpoint, files, models
from tcvit_jax.convert import hub
from tcvit_jax.convert.described import describe
from tcvit_jax.convert.directory import (
    is_directory,
    open_directory,
    open_weights,
    read_model_type,
    read_processor_file,
)
from tcvit_jax.convert.files import detect_kind, read_file
from tcvit_jax.convert.mapping import to_torch
from tcvit_jax.convert.processor import read_processor
from tcvit_jax.convert.weight_file import WeightFile
from tcvit_jax.convert.weight_source import WeightSource
from tcvit_jax.errors import InputError, cannot_read, conflicts
from tcvit_jax.models import ViT, zoo
from tcvit_jax.models.create import change_model
from tcvit_jax.models.image_preprocessing import Preprocessing


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
    return opened.fit_channels() if "in_chans" in overrides else opened


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
        directory = open_directory(location.path)
        weights = _read_weights(location.path, entry).select(prefix, ignore)
        return describe(location.label, directory, weights, overrides)
    if is_checkpoint(location.path):
        return _open_checkpoint(location, overrides, entry, prefix, ignore)
    weights = _read_weights(location.path, entry).select(prefix, ignore)
    meta = read_meta(location.path)
    if model is None and meta is not None:
        model = _model_of(meta, overrides, location.path)
    preprocessing = None if model is None else _preprocessing_of(model, location.path)
    opened = WeightSource(location.label, weights, model, preprocessing=preprocessing)
    return opened if meta is None else _with_meta(opened, meta)


def _preprocessing_of(model: ViT, path: Path) -> Preprocessing | None:
    """Return the preprocessing in a directory at the size of a named model, or else that of the name, if any."""
    processor, file = read_processor_file(path) if is_directory(path) else (None, path)
    if processor is None:
        return None if zoo.is_generic(model.variant) else zoo.preprocessing(model.variant)
    preprocessing, img_size = read_processor(processor, read_model_type(path), file)
    return preprocessing if model.img_size == img_size else preprocessing.at_other_size()


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
