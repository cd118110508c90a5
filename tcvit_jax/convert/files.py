"""Reading of weight files as mappings of named tensors, and writing of `.safetensors` files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tcvit_jax import atomic
from tcvit_jax.errors import cannot_read, first_line, invalid, requires, unknown

# Keys of the state dict in training checkpoints, in order of preference. Papers report averaged weights.
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
# In older versions `weights_only=True` can execute code: CVE-2025-32434 (before 2.6), CVE-2026-24747 (before 2.10).
MIN_TORCH = (2, 10)
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".tar", ".bin")


class WeightFile(Mapping[str, Any]):
    """Mapping from names to the tensors of a file, which are read one at a time.

    Attributes:
        path: Path of the file.
        entry: Key of the tensors in a training checkpoint, or "".
        grid: Patch grid `(height, width)` of the position embeddings if the file records it, or None.
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
        """Create the mapping without reading any tensor.

        Args:
            path: Path of the file.
            names: Names of the tensors.
            read: Function that returns the tensor of a name. Its exceptions become an `InputError` that names the file.
            entry: Key of the tensors in a training checkpoint, or "".
            grid: Patch grid of the position embeddings, or None.

        Raises:
            InputError: A name occurs more than once.
        """
        self.path, self.entry, self.grid, self._read = path, entry, grid, read
        self._names = dict.fromkeys(names)
        if len(self._names) < len(names):
            duplicate = next(name for name in names if names.count(name) > 1)
            raise cannot_read(path, f"duplicate tensor {duplicate!r}")

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        try:
            return self._read(name)
        except Exception as error:  # readers raise many types for a damaged file
            raise cannot_read(self.path, f"cannot read {name!r}: {first_line(error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_file(path: str | Path, entry: str | None = None) -> WeightFile:
    """Open a weight file. Code in pickled files is never executed.

    Args:
        path: A `.safetensors` file; an AugReg `.npz` file; or a pickled `.pth`, `.pt`, `.tar` or `.bin` file, which
            requires torch and is read with `weights_only=True`.
        entry: Key of the tensors in a pickled checkpoint; by default the first of `state_dict_ema`, `model_ema`,
            `state_dict` and `model`, or else the checkpoint itself.

    Raises:
        InputError: The file is not found, has an unknown suffix or cannot be read, or torch is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise cannot_read(path, "not found", "expected a weight file")
    if path.suffix not in SUFFIXES:
        raise cannot_read(path, f"unknown suffix {path.suffix!r}", f"expected one of {', '.join(SUFFIXES)}")
    if path.suffix not in (".safetensors", ".npz"):
        return _read_pickle(path, entry)
    if entry is not None:
        raise requires(f"entry={entry!r}", "a pickled checkpoint", f"{path} has no entries")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_npz(path)


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a `.safetensors` file atomically.

    Args:
        path: New file.
        tensors: Tensors by name.
        metadata: Metadata of the file, in addition to the format.

    Raises:
        InputError: The file already exists or cannot be written.
    """
    from safetensors.numpy import save_file

    path = Path(path).absolute()
    if path.exists():
        raise invalid(path, "already exists", "choose another name, or remove it")
    with atomic.write(path) as draft:
        save_file(dict(tensors), draft, metadata={"format": "pt", **metadata})


def _read_safetensors(path: Path) -> WeightFile:
    from safetensors import safe_open

    try:
        file = safe_open(path, framework="numpy")
        names, metadata = tuple(file.keys()), file.metadata() or {}
    except Exception as error:  # raised by safetensors or the system
        raise cannot_read(path, f"cannot read as safetensors: {first_line(error)}") from error
    grid = parse_size(metadata.get("grid", ""))
    if "grid" in metadata and grid is None:
        raise cannot_read(path, f"expected metadata grid=HEIGHTxWIDTH, got grid={metadata['grid']!r}")
    return WeightFile(path, names, file.get_tensor, grid=grid)


def _read_npz(path: Path) -> WeightFile:
    try:
        with zipfile.ZipFile(path):
            pass  # numpy leaves a file open if it is not an archive
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # raised by zipfile, numpy or the system
        raise cannot_read(path, f"cannot read as .npz: {first_line(error)}") from error
    return WeightFile(path, file.files, file.__getitem__)


def _read_pickle(path: Path, entry: str | None) -> WeightFile:
    try:
        import torch
    except ImportError as error:
        hint = "pip install 'tcvit_jax[convert]', or use a .safetensors file"
        raise requires(str(path), "torch", hint) from error
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version and tuple(map(int, version.groups())) < MIN_TORCH:
        hint = f"older versions such as {torch.__version__} can execute code in a pickle"
        raise requires(str(path), f"torch>={MIN_TORCH[0]}.{MIN_TORCH[1]}", hint)
    try:
        loaded = _load_pickle(torch, path)
    except Exception as error:  # torch raises many types for a damaged pickle
        raise cannot_read(path, f"cannot read as a torch checkpoint: {first_line(error)}") from error
    if not isinstance(loaded, Mapping):
        raise cannot_read(path, f"expected a dict of tensors, got {type(loaded).__name__}")
    entries = [str(key) for key, value in loaded.items() if isinstance(value, Mapping)]
    if entry is None:
        entry = next((key for key in ENTRIES if key in entries), "")
        if entries and not entry and not any(hasattr(value, "detach") for value in loaded.values()):
            raise cannot_read(
                path, f"expected tensors, got entries {', '.join(entries)}", "choose one with entry or --entry"
            )
    elif entry not in entries:
        raise unknown("checkpoint entry", entry, entries)
    tensors = loaded[entry] if entry else loaded
    if not all(isinstance(name, str) for name in tensors):
        raise cannot_read(path, "tensor names must be strings")
    return WeightFile(path, tuple(tensors), tensors.__getitem__, entry=entry)


def _load_pickle(torch: Any, path: Path) -> Any:
    """Load a torch file that contains only tensors and plain containers, memory-mapped if its format allows."""
    import argparse

    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as file:
            # torch itself does not compare the checksums.
            damaged_member = file.testzip()
        if damaged_member is not None:
            raise ValueError(f"wrong checksum of {damaged_member}")
    # Training scripts save their arguments with the weights. A `Namespace` is safe to load.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def parse_size(text: str) -> tuple[int, int] | None:
    """Return `"14x16"` as height and width, `"14"` as both, and None for any other text."""
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    return (int(match[1]), int(match[2] or match[1])) if match else None
