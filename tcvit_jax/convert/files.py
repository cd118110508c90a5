"""Weight files as mappings of named tensors, read one at a time, and the one that is written."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tcvit_jax import atomic
from tcvit_jax.errors import InputError, first_line, unknown

# Where a checkpoint keeps the state dict, the preferred first; averages are what papers report.
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
# Before, `weights_only=True` did not keep its promise: CVE-2025-32434 (until 2.6), CVE-2026-24747 (until 2.10).
TORCH = (2, 10)
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".tar", ".bin")


class WeightFile(Mapping[str, Any]):
    """The tensors of a file by name. A large file is read tensor by tensor, not at once.

    Attributes:
        path: of the file.
        entry: of a checkpoint, the key that the tensors are under; "" where there is none.
        grid: patches in height and width that its positions are of, where it says so.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        read: Callable[[str], Any],
        *,
        entry: str = "",
        grid: tuple[int, int] | None = None,
    ) -> None:
        """`read` gives the tensor of one of `names`; what it raises is reported with the file.

        Raises:
            InputError: a name that is there twice.
        """
        self.path, self.entry, self.grid, self._read = path, entry, grid, read
        self._names = dict.fromkeys(names)
        if len(self._names) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{str(path)!r} holds {twice!r} twice")

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


def read_file(path: str | Path, entry: str | None = None) -> WeightFile:
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
    if path.suffix not in (".safetensors", ".npz"):
        return _read_pickle(path, entry)
    if entry is not None:
        raise InputError(f"{str(path)!r} has no entries to choose {entry!r} from: only pickled checkpoints have")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_npz(path)


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file: all of it, or nothing.

    Raises:
        InputError: the file is there already, or cannot be written.
    """
    from safetensors.numpy import save_file

    path = Path(path).absolute()
    if path.exists():
        raise InputError(f"{str(path)!r} is there already: choose another name, or remove it")
    with atomic.write(path) as draft:
        save_file(dict(tensors), draft, metadata={"format": "pt", **metadata})


def _read_safetensors(path: Path) -> WeightFile:
    from safetensors import safe_open

    try:
        file = safe_open(path, framework="numpy")
        names, metadata = tuple(file.keys()), file.metadata() or {}
    except Exception as error:  # its own kind, or the system's
        raise InputError(f"cannot read {str(path)!r} as safetensors: {first_line(error)}") from error
    grid = parse_size(metadata.get("grid", ""))
    if "grid" in metadata and grid is None:
        raise InputError(f"{str(path)!r} says grid={metadata['grid']!r}: it should be like 14x14")
    return WeightFile(path, names, file.get_tensor, grid=grid)


def _read_npz(path: Path) -> WeightFile:
    try:
        with zipfile.ZipFile(path):
            pass  # numpy would leave a file open that is no archive
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile's, numpy's or the system's
        raise InputError(f"cannot read {str(path)!r} as .npz: {first_line(error)}") from error
    return WeightFile(path, file.files, file.__getitem__)


def _read_pickle(path: Path, entry: str | None) -> WeightFile:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"reading {str(path)!r} needs torch: pip install 'tcvit_jax[convert]', or use a .safetensors file"
        ) from error
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version and tuple(map(int, version.groups())) < TORCH:
        raise InputError(
            f"reading {str(path)!r} needs torch {TORCH[0]}.{TORCH[1]} or newer, and {torch.__version__} is installed: "
            "a pickle can run code in older ones"
        )
    try:
        loaded = _load_pickle(torch, path)
    except Exception as error:  # torch raises whatever the broken pickle trips over
        raise InputError(f"cannot read {str(path)!r} as a torch checkpoint: {first_line(error)}") from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"{str(path)!r} holds a {type(loaded).__name__}, not a dict of tensors")
    entries = [str(key) for key, value in loaded.items() if isinstance(value, Mapping)]
    if entry is None:
        entry = next((key for key in ENTRIES if key in entries), "")
        if entries and not entry and not any(hasattr(value, "detach") for value in loaded.values()):
            raise InputError(
                f"{str(path)!r} holds no tensors, but entries: choose one (--entry) of {', '.join(entries)}"
            )
    elif entry not in entries:
        raise unknown(f"entry of {str(path)!r}:", entry, entries)
    tensors = loaded[entry] if entry else loaded
    if not all(isinstance(name, str) for name in tensors):
        raise InputError(f"{str(path)!r} holds names that are not text")
    return WeightFile(path, tuple(tensors), tensors.__getitem__, entry=entry)


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


def parse_size(text: str) -> tuple[int, int] | None:
    """`"14x16"` as height and width, `"14"` as both; None where the text is neither."""
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    return (int(found[1]), int(found[2] or found[1])) if found else None
