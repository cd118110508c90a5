"""Export of a checkpoint to a directory that transformers loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tcvit_jax import atomic, checkpoint
from tcvit_jax.convert.directory import CONFIG, PROCESSOR, WEIGHT_FILES
from tcvit_jax.convert.families import export
from tcvit_jax.convert.files import write_safetensors
from tcvit_jax.convert.mapping import to_tensors
from tcvit_jax.convert.processor import write_processor

_HALF = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def to_transformers(
    directory: str | Path,
    out: str | Path,
    weights: str | None = None,
    progress: Callable[[str], object] | None = None,
) -> str:
    """Write a checkpoint as a directory that `AutoModel.from_pretrained` of transformers loads, without its reducer.

    The family is that of the source of the checkpoint, or the first one that represents the model. Tensors that the
    classes of transformers have in addition are zero, such as the mask token of DINOv2.

    Args:
        directory: Checkpoint directory, as in `load`.
        out: New directory for `config.json`, `model.safetensors` and, if the checkpoint has preprocessing,
            `preprocessor_config.json`. The tensors are float32, or of the dtype of the source if they all fit.
        weights: `"ema"` or `"variables"`, as in `load`.
        progress: Called with the name of each step when it starts, if it is not None.

    Returns:
        Summary in one line.

    Raises:
        InputError: The directory contains no checkpoint, no family represents the model, or `out` is not empty.
    """
    out = Path(out).absolute()
    checkpoint.check_empty(out)
    if progress is not None:
        progress(f"reading {directory}")
    model, variables, meta = checkpoint.load(directory, weights)
    origin = _origin(meta)
    result = export(model, to_tensors(variables, model), directory, origin.get("model_type", ""), meta.get("classes"))
    tensors, dtype = _narrow(result.tensors, str(origin.get("dtype", "")))
    config = {**result.config, "torch_dtype": dtype}
    processor = None
    if "preprocessing" in meta:
        processor = write_processor(checkpoint.read_preprocessing(meta, directory), model.img_size)
    if progress is not None:
        progress(f"writing {out}")
    with atomic.write(out) as draft:
        draft.mkdir()
        write_safetensors(draft / WEIGHT_FILES[0], tensors, {})
        atomic.write_json(draft / CONFIG, config)
        if processor is not None:
            atomic.write_json(draft / PROCESSOR, processor)
    return f"{out}: {len(tensors)} tensors of {config['architectures'][0]}, {dtype}"


def _origin(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the origin of the weights of a converted checkpoint, which may be damaged."""
    provenance = meta.get("provenance")
    if not isinstance(provenance, Mapping):
        return {}
    return {key: value for key, value in provenance.items() if isinstance(value, str)}


def _narrow(tensors: dict[str, np.ndarray], dtype: str) -> tuple[dict[str, np.ndarray], str]:
    """Return tensors in half precision if that is the dtype of their source and changes no value, and their dtype."""
    if dtype in _HALF:
        with np.errstate(over="ignore"):
            narrow = {name: tensor.astype(_HALF[dtype]) for name, tensor in tensors.items()}
        if all(np.array_equal(narrow[name].astype(np.float32), tensor) for name, tensor in tensors.items()):
            return narrow, dtype
    return tensors, "float32"
