"""Opening of weight files as mappings of named tensors, and writing of `.safetensors` files."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tcvit_jax import atomic, pickles
from tcvit_jax.convert.weight_file import Kind, WeightFile
from tcvit_jax.errors import cannot_read, first_line, invalid, requires, unknown
from tcvit_jax.files import check_regular

# Keys of the state dict in training checkpoints, in order of preference. Papers report averaged weights, and the
# teacher of self-supervised training is the average of its student.
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model", "network", "teacher", "student")
# For files whose content is not recognized, for example because their start is damaged.
SUFFIXES: dict[str, Kind] = {
    ".safetensors": "safetensors", ".npz": "npz",
    ".pth": "torch", ".pt": "torch", ".tar": "torch", ".bin": "torch", ".ckpt": "torch",
}  # fmt: skip
EXPECTED = "a weight file (.safetensors, .npz or a torch checkpoint)"
# The first bytes of files that users take for weight files, what they are, and what to do.
OTHER_FILES = (
    (b"version https://git-lfs", "a pointer of Git LFS", "run git lfs pull"),
    (b"<", "an HTML or XML page", "the download failed"),
    (b"\x1f\x8b", "a gzip archive", "decompress it"),
    (b"\x89HDF", "an HDF5 file", ""),
    (b"\x93NUMPY", "a single NumPy array", ""),
    (b"{", "a JSON file", "pass the file of the tensors"),
)
# The key of the metadata of a checkpoint in the metadata of a `.safetensors` file.
META = "tcvit_jax"
# Larger headers are damaged or a decompression bomb. NumPy writes 128 bytes.
MAX_NPY_HEADER = 65_536
# Bytes of a mapped file that are in memory at the same time.
MAX_MAPPED = 2**26
# Bytes of the largest number of NumPy, a complex one.
MAX_ITEM = 32


def read_file(path: str | Path, entry: str | None = None) -> WeightFile:
    """Open a weight file. Code in pickled files is never executed.

    Args:
        path: A `.safetensors` file; a `.npz` file; or a file of `torch.save`, which requires torch. The content decides
            and not the suffix.
        entry: Key of the tensors in a torch checkpoint; by default the first of `state_dict_ema`, `model_ema`,
            `state_dict`, `model`, `network`, `teacher` and `student`, or else the checkpoint itself.

    Raises:
        InputError: The file is not found, is not a weight file or cannot be read, or torch is not installed.
    """
    path = Path(path)
    check_regular(path, EXPECTED)
    kind = detect_kind(path)
    if kind == "torch":
        return _read_pickle(path, entry)
    if entry is not None:
        raise requires(f"entry={entry!r}", "a torch checkpoint", f"{path} has no entries")
    return _read_safetensors(path) if kind == "safetensors" else _read_npz(path)


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


def detect_kind(path: Path) -> Kind:
    """Return the kind of a weight file by its content, or else by its suffix."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
        content = _kind_of_archive(path) if start.startswith(b"PK") else _kind_of_start(start)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        start, content, other = b"", None, first_line(error)
    else:
        other = "other content" if start else "an empty file"
    if content is not None:
        return content
    for magic, name, hint in OTHER_FILES:
        if start.startswith(magic):
            raise cannot_read(path, f"expected {EXPECTED}, got {name}", hint)
    # The reader of the suffix says what is wrong with a damaged file.
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise cannot_read(path, f"expected {EXPECTED}, got {other}")
    return kind


def _kind_of_start(start: bytes) -> Kind | None:
    """Return the kind of a file by its first bytes."""
    if re.match(rb".{5}\0{3}\{", start, re.DOTALL):  # the length of the header, and the header in JSON
        return "safetensors"
    return "torch" if re.match(rb"\x80[\x02-\x05]", start) else None


def _kind_of_archive(path: Path) -> Kind | None:
    """Return the kind of a zip archive by the names of its members."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith(".npy") for name in names):
        return "npz"
    return "torch" if any(name.endswith(".pkl") for name in names) else None


def _read_safetensors(path: Path) -> WeightFile:
    from safetensors import safe_open

    def read(name: str) -> np.ndarray:
        # An open file keeps every page in memory that was read.
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except MemoryError:
        raise
    except Exception as error:  # raised by safetensors or the system
        raise cannot_read(path, f"cannot read as safetensors: {first_line(error)}") from error
    grid = parse_size(metadata.get("grid", ""))
    if "grid" in metadata and grid is None:
        raise cannot_read(path, f"expected metadata grid=HEIGHTxWIDTH, got grid={metadata['grid']!r}")
    return WeightFile(
        path, tuple(shapes), read, shapes.__getitem__, kind="safetensors", grid=grid, meta=metadata.get(META, "")
    )


def _read_npz(path: Path) -> WeightFile:
    try:
        with zipfile.ZipFile(path):
            pass  # numpy leaves a file open if it is not an archive
        file = np.load(path, allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # raised by zipfile, numpy or the system
        raise cannot_read(path, f"cannot read as .npz: {first_line(error)}") from error
    archive = file.zip
    members = dict(zip(file.files, archive.namelist(), strict=True))

    def read(name: str) -> np.ndarray:
        array = file[name]
        # big_vision writes bfloat16, which NumPy stores as two bytes without a type.
        return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array

    def shape(name: str) -> tuple[int, ...]:
        with archive.open(members[name]) as member:
            start = io.BytesIO(member.read(MAX_NPY_HEADER))
        version = np.lib.format.read_magic(start)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        array_shape, _, dtype = reader(start)
        if dtype.itemsize > MAX_ITEM:
            raise ValueError(f"expected numbers, got dtype {dtype}")
        return array_shape

    return WeightFile(path, file.files, read, shape, kind="npz")


def _read_pickle(path: Path, entry: str | None) -> WeightFile:
    loaded = pickles.load(path, "use a .safetensors file")
    if not isinstance(loaded, Mapping):
        raise cannot_read(path, f"expected a dict of tensors, got {type(loaded).__name__}")
    entries = [key for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Mapping)]
    if entry is None:
        entry = next((key for key in ENTRIES if key in entries), "")
        if entries and not entry and not any(hasattr(value, "shape") for value in loaded.values()):
            raise cannot_read(
                path, f"expected tensors, got entries {', '.join(entries)}", "choose one with entry or --entry"
            )
    elif entry not in entries:
        raise unknown("checkpoint entry", entry, entries)
    tensors = loaded[entry] if entry else loaded
    if not all(isinstance(name, str) for name in tensors):
        raise cannot_read(path, "tensor names must be strings")
    shapes = {name: getattr(value, "shape", None) for name, value in tensors.items()}
    is_mapped = zipfile.is_zipfile(path) and path.suffix != ".safetensors"
    reader = _TorchReader(path, entry, None if is_mapped else tensors)
    return WeightFile(path, tuple(shapes), reader.read, shapes.__getitem__, kind="torch", entry=entry)


class _TorchReader:
    """Reading of single tensors of a file of `torch.save`.

    A mapping of the file into memory keeps every page that was read. Therefore the file is mapped again after each
    `MAX_MAPPED` bytes. Files of old versions of torch cannot be mapped, and are loaded completely.

    Args:
        path: The file.
        entry: Key of the tensors, or "".
        tensors: The tensors of a file that cannot be mapped, or None.
    """

    def __init__(self, path: Path, entry: str, tensors: Mapping[str, Any] | None) -> None:
        self._path, self._entry = path, entry
        self._is_mapped = tensors is None
        self._tensors = tensors
        self._size = 0

    def read(self, name: str) -> Any:
        """Return a tensor, in memory of its own if the file is mapped."""
        if self._tensors is None:
            loaded = pickles.load(self._path, "use a .safetensors file", is_verified=True)
            self._tensors, self._size = loaded[self._entry] if self._entry else loaded, 0
        value: Any = self._tensors[name]
        if self._is_mapped and hasattr(value, "clone"):
            value = value.clone()
            self._size += value.element_size() * value.numel()
        if self._is_mapped and self._size > MAX_MAPPED:
            self._tensors = None
        return value


def parse_size(text: str) -> tuple[int, int] | None:
    """Return `"14x16"` as height and width, `"14"` as both, and None for any other text."""
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    return (int(match[1]), int(match[2] or match[1])) if match else None


def to_numpy(value: Any) -> np.ndarray:
    """Return a tensor of NumPy or torch as a NumPy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # torch cannot convert bfloat16 to NumPy, so its bits are reinterpreted.
        if str(value.dtype) == "torch.bfloat16":
            import torch

            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()
    return np.asarray(value)
