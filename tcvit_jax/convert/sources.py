"""Weights from a file, a Hugging Face repository, or a checkpoint directory."""

from __future__ import annotations

from pathlib import Path

from tcvit_jax import checkpoint
from tcvit_jax.convert import hub
from tcvit_jax.convert.files import WeightFile, read_file
from tcvit_jax.convert.mapping import to_torch


def read_state_dict(source: str | Path, entry: str | None = None) -> WeightFile:
    """Read named tensors from a file, a Hugging Face repository, or a checkpoint directory.

    Code in pickled files is never executed.

    Args:
        source: A `.safetensors` file; an AugReg `.npz` file; a pickled `.pth`, `.pt`, `.tar` or `.bin` file (requires
            torch, and is read with `weights_only=True`); `hf-hub:timm/NAME` or `timm/NAME`; or a directory for `load`,
            whose averaged weights are preferred.
        entry: Key of the tensors in a pickled checkpoint; by default the first of `state_dict_ema`, `model_ema`,
            `state_dict` and `model`, or else the checkpoint itself. For a directory, `"ema"` or `"variables"`.

    Returns:
        A mapping for `from_torch` that reads its tensors one at a time.

    Raises:
        InputError: The source is not found, has an unknown format or cannot be read, or torch is not installed.
    """
    if Path(source).is_dir():
        model, variables, _ = checkpoint.load(source, entry)
        tensors = to_torch(variables, model)
        return WeightFile(Path(source), tuple(tensors), tensors.__getitem__, grid=model.grid)
    repo = hub.repository(str(source))
    return read_file(hub.download(repo) if repo else source, entry)
