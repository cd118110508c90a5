"""Models with their weights from any source: checkpoints, directories, repositories and weight files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tcvit_jax import checkpoint, files, models, sharding
from tcvit_jax.convert import hub, report
from tcvit_jax.convert.files import SUFFIXES
from tcvit_jax.convert.sources import is_checkpoint, open_source
from tcvit_jax.convert.weight_source import WeightSource, count_classes
from tcvit_jax.errors import cannot_read, conflicts, requires
from tcvit_jax.models import ViT
from tcvit_jax.models.create import change_model
from tcvit_jax.reducers import Reducer
from tcvit_jax.schedule import Schedule


def load(
    source: str | Path,
    *,
    reducer: Reducer | None = None,
    schedule: int | Sequence[int] | Schedule = 0,
    img_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    model: str | None = None,
    weights: str | None = None,
    entry: str | None = None,
    prefix: str = "",
    ignore: Sequence[str] = (),
) -> tuple[ViT, dict[str, Any], dict[str, Any]]:
    """Load a model and its weights.

    Args:
        source: A run directory, its directory of checkpoints, or one checkpoint, of which the newest is loaded; a
            directory of transformers or timm, with `config.json`; `hf-hub:ORG/NAME` or `ORG/NAME`, a repository of the
            Hugging Face Hub; or a weight file, with `model` unless a checkpoint was exported to it. An existing path
            takes precedence over `ORG/NAME`.
        reducer: Token reduction method. None keeps that of a checkpoint; other sources have none.
        schedule: Number of patch tokens to remove in each block, as in `create_model`. Without `reducer`, 0 keeps the
            schedule of a checkpoint.
        img_size: Size of the images, an int or `(height, width)`; by default that of the source. Position embeddings
            are resampled as the library of the source does. The default of DINOv2 and DINOv3 of transformers, which
            accept any size, is the size of their image processor.
        num_classes: Number of classes; by default that of the source. A classifier for another number is new, and zero.
        model: Name of the model of a weight file, one of `list_models()`. For a directory or repository it takes the
            place of `config.json`: sizes, epsilon, activation and resampling are those of the name, and the
            preprocessing is that of a `preprocessor_config.json` in the directory, at the size of the model.
        weights: For a checkpoint, `"ema"` for the moving averages, which evaluations of a run use, or `"variables"` for
            the trained or converted variables. By default the averages, if there are any.
        entry: For a torch file, the key of the tensors, as in `convert.read_state_dict`.
        prefix: For other sources than checkpoints, the prefix of the tensors to read, as in `convert.read_state_dict`.
        ignore: For other sources than checkpoints, patterns of tensors to leave out, as in `convert.read_state_dict`.

    Returns:
        A tuple `(model, variables, meta)`: the module; `{"params": ...}` and, if the model has any, `"batch_stats"`,
        float32 and replicated on all devices; and the metadata: `model` and `classes`; `preprocessing`, unless a
        directory has no `preprocessor_config.json`; `provenance`, unless a run made the weights; for a run also `step`,
        `seed` and `config`.

    Raises:
        InputError: The source is not found, is damaged or cannot be read; a field of a configuration cannot be honored,
            or does not match the tensors; or an argument does not fit the source. If the newest checkpoint of a run is
            damaged, the message names an older one that is intact; it is never loaded instead.
    """
    changes = {key: value for key, value in (("img_size", img_size), ("num_classes", num_classes)) if value is not None}
    if is_checkpoint(source) or _is_missing(source):
        options = {"model": model, "entry": entry, "prefix": prefix or None, "ignore": ignore or None}
        for name, value in options.items():
            if value is not None:
                raise conflicts(f"{name}={value!r}", f"the checkpoint {source}", "it is read completely")
        loaded, variables, meta = _load_checkpoint(Path(files.expand(str(source), "source")), changes, weights)
    elif weights is not None:
        raise conflicts(f"weights={weights!r}", str(source), "only checkpoints have several")
    else:
        opened = open_source(source, model, overrides=changes, entry=entry, prefix=prefix, ignore=ignore)
        if opened.model is None:
            raise cannot_read(source, "cannot infer the model", "pass model=NAME, one of tc.list_models()")
        loaded, variables, meta = _convert(opened, opened.model, num_classes)
    loaded = _reduce(loaded, reducer, schedule)
    return loaded, variables, {**meta, "model": models.to_config(loaded)}


def load_dense(source: str | Path, img_size: tuple[int, int]) -> tuple[ViT, dict[str, Any]]:
    """Load the dense model of a source that describes its model, and its weights, for images of another size.

    Args:
        source: As for `load`.
        img_size: `(height, width)`.

    Returns:
        The model without token reduction, and its variables, as in `load`. Position embeddings are resampled once, from
        the grid of the source.

    Raises:
        InputError: As for `load`, or the model does not support the size.
    """
    changes = {"img_size": img_size}
    # The schedule of a checkpoint may not fit the other number of patches.
    opened = open_source(source, overrides={} if is_checkpoint(source) else changes)
    if opened.model is None:
        raise cannot_read(source, "cannot infer the model", "pass a source that describes its model")
    model = change_model(models.condense(opened.model), changes)
    return model, sharding.place_replicated(opened.convert(model).variables, sharding.data_mesh())


def _is_missing(source: str | Path) -> bool:
    """Return whether a source is the path of a directory that does not exist, for the error of a missing checkpoint."""
    path = Path(files.expand(str(source), "source"))
    return hub.repository(str(source)) is None and not path.exists() and path.suffix.lower() not in SUFFIXES


def _load_checkpoint(
    path: Path, changes: dict[str, Any], weights: str | None
) -> tuple[ViT, dict[str, Any], dict[str, Any]]:
    """Load a checkpoint, and fit its variables to other sizes."""
    if not changes:
        return checkpoint.load(path, weights)
    source = open_source(path, overrides=changes, entry=weights)
    assert source.model is not None and source.meta is not None
    model, new_head = source.model, source.num_classes != source.model.num_classes
    conversion = source.convert(model, new_head=new_head)
    meta = {**source.meta, "classes": source.classes}
    if source.preprocessing is not None:
        meta["preprocessing"] = asdict(source.preprocessing)
    if new_head or model.grid != source.weights.grid:
        # The checksum is that of the variables of the checkpoint.
        meta.pop(checkpoint.CHECKSUM, None)
    return model, sharding.place_replicated(conversion.variables, sharding.data_mesh()), meta


def _convert(source: WeightSource, model: ViT, num_classes: int | None) -> tuple[ViT, dict[str, Any], dict[str, Any]]:
    """Convert the weights of a source, with a new classifier if its number of classes is another."""
    count = source.num_classes
    if count is None and num_classes is not None:
        count = count_classes(source.weights, model) or 0
    new_head = count is not None and count != model.num_classes
    conversion = source.convert(model, new_head=new_head)
    meta = report.make_meta(source, model, report.make_report(source, model, conversion), new_head=new_head)
    return model, sharding.place_replicated(conversion.variables, sharding.data_mesh()), meta


def _reduce(model: ViT, reducer: Reducer | None, schedule: int | Sequence[int] | Schedule) -> ViT:
    """Return a model with another reducer and schedule; with its own ones by default."""
    if reducer is not None:
        return models.condense(model, reducer, schedule)
    if isinstance(schedule, int) and schedule == 0:
        return model
    if model.reducer is None:
        raise requires(f"schedule={schedule!r}", "reducer", "pass reducer=tc.GTP(), for example")
    return models.condense(model, model.reducer, schedule)
