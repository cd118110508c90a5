"""Weights from a file, a Hugging Face repository, or a checkpoint directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tcvit_jax import checkpoint
from tcvit_jax.convert import hub
from tcvit_jax.convert.files import WeightFile, detect_kind, read_file
from tcvit_jax.convert.mapping import to_torch


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
    path = Path(source)
    if path.is_dir():
        return checkpoint.read_meta(path)
    if not path.is_file() or detect_kind(path) != "safetensors":
        return None
    text = read_file(path).meta
    return checkpoint.parse_meta(text, path) if text else None


def read_state_dict(
    source: str | Path, entry: str | None = None, *, prefix: str = "", ignore: Sequence[str] = ()
) -> WeightFile:
    """Read named tensors from a file, a Hugging Face repository, or a checkpoint directory.

    Code in pickled files is never executed.

    Args:
        source: A `.safetensors` file; a `.npz` file of AugReg, big_vision or scenic; a file of `torch.save` (requires
            torch, and is read with `weights_only=True`), whatever its suffix; `hf-hub:timm/NAME` or `timm/NAME`; or a
            directory for `load`, whose averaged weights are preferred.
        entry: Key of the tensors in a torch checkpoint; by default the first of `state_dict_ema`, `model_ema`,
            `state_dict`, `model`, `teacher` and `student`, or else the checkpoint itself. For a directory, `"ema"` or
            `"variables"`.
        prefix: Only tensors whose name starts with it are read, without it in their names, such as `"backbone."`.
        ignore: Shell patterns of names of tensors that are left out, such as `"projector.*"`.

    Returns:
        A mapping for `from_torch` that reads its tensors one at a time.

    Raises:
        InputError: The source is not found, has an unknown format or cannot be read, torch is not installed, or no
            tensor has the prefix or matches a pattern.
    """
    if Path(source).is_dir():
        model, variables, _ = checkpoint.load(source, entry)
        tensors = to_torch(variables, model)
        file = WeightFile(
            Path(source), tuple(tensors), tensors.__getitem__, lambda name: tensors[name].shape, kind="checkpoint",
            grid=model.grid,
        )  # fmt: skip
    else:
        repo = hub.repository(str(source))
        file = read_file(hub.download(repo) if repo else source, entry)
    return file.select(prefix, ignore)
