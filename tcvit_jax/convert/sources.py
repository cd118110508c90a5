"""WeightFile from wherever they are: a file, the hub, or a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path

from tcvit_jax import checkpoint
from tcvit_jax.convert import hub
from tcvit_jax.convert.files import WeightFile, read_file
from tcvit_jax.convert.mapping import to_torch


def read_state_dict(source: str | Path, entry: str | None = None) -> WeightFile:
    """Named tensors of a file, a repository of the hub, or a checkpoint directory. Nothing in them is ever executed.

    Args:
        source: a `.safetensors` file; an `.npz`, as the AugReg models were published; a pickled `.pth`, `.pt`, `.tar`
            or `.bin` (which needs torch, and is read with `weights_only=True`); `hf-hub:timm/NAME` or `timm/NAME`;
            or a directory that `load` reads, whose averages are taken where it has any.
        entry: of a pickled checkpoint, the key of its tensors; by default the first there is of `state_dict_ema`,
            `model_ema`, `state_dict`, `model`, or else the checkpoint itself. Of a directory, `"ema"` or
            `"variables"`.

    Returns:
        A mapping that reads its tensors one at a time, for `from_torch`.

    Raises:
        InputError: nothing there, an unknown kind, something that cannot be read, or torch missing.
    """
    if Path(source).is_dir():
        model, variables, _ = checkpoint.load(source, entry)
        tensors = to_torch(variables, model)
        return WeightFile(Path(source), tuple(tensors), tensors.__getitem__, grid=model.grid)
    repo = hub.repository(str(source))
    return read_file(hub.download(repo) if repo else source, entry)
