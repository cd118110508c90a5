"""Weight files as mappings of named tensors, read one at a time, and the one that is written."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tcvit_jax.errors import InputError, unknown

# Where a checkpoint keeps the state dict, the preferred first; averages are what papers report.
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".tar", ".bin")


class Weights(Mapping[str, Any]):
    """The tensors of a file by name. A large file is read tensor by tensor, not at once.

    Attributes:
        path: of the file.
        entry: of a checkpoint, the key that the tensors are under; "" where there is none.
        grid: patches in height and width that its positions are of, where it says so.
    """

    def __init__(
        self, path: Path, names: tuple[str, ...], read: Callable[[str], Any], *, entry: str = "", grid: str = ""
    ) -> None:
        """`read` gives the tensor of one of `names`; what it raises is reported with the file."""
        self.path, self.entry, self._names, self._read = path, entry, dict.fromkeys(names), read
        self.grid = _parse_grid(path, grid) if grid else None

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        try:
            return self._read(name)
        except Exception as error:  # readers raise whatever a broken file trips over
            raise InputError(f"cannot read {name!r} of {str(self.path)!r}: {first_line(error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_file(path: str | Path, entry: str | None = None) -> Weights:
    """The tensors of a weight file. Nothing in it is ever executed.

    `.safetensors`; `.npz`, as the AugReg models were published; or a pickled `.pth`, `.pt`, `.tar`, `.bin` (which needs
    torch, and is read with `weights_only=True`).

    Args:
        path: of the file.
        entry: of a pickled checkpoint, the key of the tensors; by default the first there is of `state_dict_ema`,
            `model_ema`, `state_dict`, `model`, or else the checkpoint itself.

    Raises:
        InputError: no such file, an unknown suffix, a file that cannot be read, or torch missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no weight file {str(path)!r}")
    if path.suffix not in SUFFIXES:
        raise InputError(f"weight file {str(path)!r} has suffix {path.suffix!r}: use one of {', '.join(SUFFIXES)}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_npz(path) if path.suffix == ".npz" else _read_pickle(path, entry)


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file: all of it, or nothing.

    Raises:
        InputError: the file is there already, or cannot be written.
    """
    from safetensors.numpy import save_file

    path = Path(path).absolute()
    if path.exists():
        raise InputError(f"{str(path)!r} is there already: choose another name, or remove it")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), partial, metadata={"format": "pt", **metadata})
        os.replace(partial, path)
    except Exception as error:  # safetensors has kinds of its own
        raise InputError(f"cannot write {str(path)!r}: {first_line(error)}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, or its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _read_safetensors(path: Path) -> Weights:
    from safetensors import safe_open

    try:
        file = safe_open(path, framework="numpy")
        names, metadata = tuple(file.keys()), file.metadata() or {}
    except Exception as error:  # its own kind, or the system's
        raise InputError(f"cannot read {str(path)!r} as safetensors: {first_line(error)}") from error
    return Weights(path, names, file.get_tensor, grid=metadata.get("grid", ""))


def _read_npz(path: Path) -> Weights:
    try:
        with zipfile.ZipFile(path):
            pass  # numpy would leave a file open that is no archive
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile's, numpy's or the system's
        raise InputError(f"cannot read {str(path)!r} as .npz: {first_line(error)}") from error
    return Weights(path, tuple(file.files), file.__getitem__)


def _read_pickle(path: Path, entry: str | None) -> Weights:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"reading {str(path)!r} needs torch: pip install 'tcvit_jax[convert]', or use a .safetensors file"
        ) from error
    try:
        loaded = _load_pickle(torch, path)
    except Exception as error:  # torch raises whatever the broken pickle trips over
        raise InputError(f"cannot read {str(path)!r} as a torch checkpoint: {first_line(error)}") from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"{str(path)!r} holds a {type(loaded).__name__}, not a dict of tensors")
    entries = [key for key, value in loaded.items() if isinstance(value, Mapping)]
    if entry is None:
        entry = next((key for key in ENTRIES if key in entries), "")
    elif entry not in entries:
        raise unknown(f"entry of {str(path)!r}:", entry, map(str, entries))
    tensors = loaded[entry] if entry else loaded
    if not all(isinstance(name, str) for name in tensors):
        raise InputError(f"{str(path)!r} holds names that are not text")
    return Weights(path, tuple(tensors), tensors.__getitem__, entry=entry)


def _load_pickle(torch: Any, path: Path) -> Any:
    """The object of a torch file: tensors and plain containers, mapped from the disk where its format allows."""
    import argparse

    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as file:
            # torch itself does not compare the checksums.
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
    # Training scripts save their arguments beside the weights: a plain record, which runs nothing.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _parse_grid(path: Path, text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise InputError(f"{str(path)!r} says grid={text!r}: it should be like 14x14")
    return int(height), int(width)
