"""Weight files as plain dicts of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tcvit_jax.errors import InputError


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """The tensors of a `.safetensors` file, or of a pickled `.pth` / `.pt` / `.bin` one (which needs torch).

    A dict nested under `model` or `state_dict`, as DeiT's and others' checkpoints have it, is unwrapped.

    Raises:
        InputError: no such file, an unknown suffix, a file that cannot be read, or torch missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weight file {str(path)!r}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_pickle(path)
    raise InputError(f"weight file {str(path)!r} has suffix {path.suffix!r}: use .safetensors or .pth")


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read {str(path)!r} as safetensors: {_first_line(error)}") from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"reading {str(path)!r} needs torch: pip install 'tcvit_jax[convert]', or use a .safetensors file"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken pickle trips over
        raise InputError(f"cannot read {str(path)!r} as a torch checkpoint: {_first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{str(path)!r} holds a {type(loaded).__name__}, not a dict of tensors")
    for key in ("model", "state_dict"):
        if isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    return loaded


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
