"""Conversion of a weight file to a checkpoint and back, with a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tcvit_jax import checkpoint
from tcvit_jax.convert import parity
from tcvit_jax.convert.files import META, write_safetensors
from tcvit_jax.convert.mapping import Conversion, to_torch
from tcvit_jax.convert.report import EXPORTED_KEYS, ORIGIN_KEYS, Report, make_meta, make_report, sha256
from tcvit_jax.convert.sources import open_source
from tcvit_jax.convert.weight_source import WeightSource
from tcvit_jax.errors import cannot_read, invalid
from tcvit_jax.models import ViT, zoo

# Largest accepted difference from timm for logits of magnitude 1, in float32. 2e-6 is typical.
TOLERANCE = 1e-4


def _ignore(step: str) -> None:
    """Show no progress."""


def to_checkpoint(
    source: str | Path,
    out: str | Path,
    name: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    new_head: bool = False,
    grid: tuple[int, int] | None = None,
    entry: str | None = None,
    prefix: str = "",
    ignore: Sequence[str] = (),
    keep_dtype: bool = False,
    adapt_patch_embed: bool = False,
    compare: bool = True,
    photo: str | Path | None = None,
    progress: Callable[[str], object] = _ignore,
) -> Report:
    """Convert published weights to a self-contained checkpoint directory for `load` and `eval.py`.

    Args:
        source: Weight file, directory or Hugging Face repository, as in `read_state_dict`.
        out: New directory.
        name: Model name; by default that of a repository of timm, or the model that `config.json` describes.
        overrides: Overrides of `create_model`, such as `img_size` and `num_classes`.
        new_head: Whether to discard the classifiers, as in `from_torch`. With `num_classes=0` they always are.
        grid: Patch grid of the position embeddings, as in `from_torch`.
        entry: Key of the tensors in a training checkpoint, as in `read_state_dict`.
        prefix: Prefix of the names of the tensors to read, as in `read_state_dict`.
        ignore: Patterns of names of tensors to leave out, as in `read_state_dict`.
        keep_dtype: Whether to keep the dtype of float16 and bfloat16 tensors, as in `from_torch`.
        adapt_patch_embed: Whether to adapt the kernel of the patch embedding to other overrides `patch_size` and
            `in_chans`, as in `from_torch`.
        compare: Whether to compare the logits with timm's on `photo`, if torch and timm are installed.
        photo: Image file; by default a sample photo of scikit-learn.
        progress: Called with the name of each step when it starts.

    Returns:
        Report of the conversion.

    Raises:
        InputError: The weights do not match the model, or the logits differ from timm's. Nothing is written.
    """
    checkpoint.check_empty(Path(out).absolute())
    image = parity.read_photo(photo) if photo is not None else None
    # A model without a classifier needs none, so that of the source is left out.
    new_head = new_head or (overrides or {}).get("num_classes") == 0
    progress(f"reading {source}")
    opened = open_source(source, name, overrides=overrides, entry=entry, prefix=prefix, ignore=ignore)
    weights, model = opened.weights, opened.model
    if model is None:
        raise cannot_read(source, "cannot infer the model", "pass --model NAME, one of tc.list_models()")
    if weights.kind == "checkpoint":
        raise cannot_read(source, "already a checkpoint", "pass --out FILE.safetensors to export its weights for timm")
    conversion = opened.convert(
        model, new_head=new_head, grid=grid, keep_dtype=keep_dtype, adapt_patch_embed=adapt_patch_embed
    )
    progress(f"compiling {model.variant} to compare it with timm" if compare else f"computing the SHA-256 of {source}")
    report = make_report(opened, model, conversion)
    result = _compare(opened, model, conversion, image) if compare else "not compared"
    report = replace(report, parity=result, out=str(out))
    meta = make_meta(opened, model, report, new_head=new_head)
    # Release the tensors of the file before the checkpoint is written.
    del weights, opened
    progress(f"writing {out}")
    return replace(report, checksum=checkpoint.save(out, conversion.variables, meta))


def to_safetensors(
    directory: str | Path, out: str | Path, weights: str | None = None, progress: Callable[[str], object] = _ignore
) -> str:
    """Export the weights of a checkpoint to a `.safetensors` file with timm's names.

    Args:
        directory: Checkpoint directory, as in `load`.
        out: New `.safetensors` file.
        weights: `"ema"` or `"variables"`, as in `load`.
        progress: Called with the name of each step when it starts.

    Returns:
        Summary in one line.

    Raises:
        InputError: The directory contains no checkpoint, or the file already exists.
    """
    progress(f"reading {directory}")
    model, variables, meta = checkpoint.load(directory, weights)
    tensors = to_torch(variables, model)
    grid = f"{model.grid[0]}x{model.grid[1]}"
    progress(f"writing {out}")
    exported = {key: meta[key] for key in EXPORTED_KEYS if key in meta}
    origin = {key: value for key, value in meta.get("provenance", {}).items() if key in ORIGIN_KEYS}
    description = json.dumps(exported | ({"provenance": origin} if origin else {}))
    write_safetensors(out, tensors, {"model": model.variant, "grid": grid, META: description})
    return f"{out}: {len(tensors)} tensors of {model.variant}, sha256 {sha256([Path(out)])}"


def _compare(source: WeightSource, model: ViT, conversion: Conversion, photo: np.ndarray | None) -> str:
    """Compare a converted model with timm.

    Returns:
        The largest difference of the logits, or the reason why they were not compared.

    Raises:
        InputError: The logits differ by more than the tolerance.
    """
    try:
        if zoo.is_generic(model.variant):
            raise parity.CannotCompareError("the model has no name of timm")
        if conversion.replaced:
            raise parity.CannotCompareError("the classifier is new")
        if model.in_chans != 3:
            raise parity.CannotCompareError(f"the photo requires in_chans=3, got in_chans={model.in_chans}")
        difference, scale = parity.compare_logits(
            source.weights, model, conversion.variables, zoo.preprocessing(model.variant), photo
        )
    except parity.CannotCompareError as error:
        return f"not compared with timm: {error}"
    result = f"largest logit difference from timm {difference:.1e} (logits up to {scale:.1f}) on a photo"
    limit = TOLERANCE * max(1.0, scale)
    if not difference <= limit:
        hint = "nothing was written; pass --no-parity to skip the comparison"
        raise invalid(model.variant, f"{result} must be <= {limit:.1e}", hint)
    return result
