"""Reading of weight files as mappings of named tensors, and writing of `.safetensors` files."""

from __future__ import annotations

import fnmatch
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from tcvit_jax import atomic, pickles
from tcvit_jax.convert.problems import shorten
from tcvit_jax.errors import cannot_read, first_line, invalid, out_of_range, requires, unknown
from tcvit_jax.files import check_regular

# Keys of the state dict in training checkpoints, in order of preference. Papers report averaged weights, and the
# teacher of self-supervised training is the average of its student.
ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student")
Kind = Literal["safetensors", "npz", "torch", "checkpoint"]
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
# Bytes of the largest number of NumPy, a complex one.
MAX_ITEM = 32


class WeightFile(Mapping[str, Any]):
    """Mapping from names to the tensors of a file, which are read one at a time.

    Attributes:
        path: Path of the file.
        kind: `"safetensors"`, `"npz"`, `"torch"`, or `"checkpoint"` for a directory.
        entry: Key of the tensors in a training checkpoint, or "".
        grid: Patch grid `(height, width)` of the position embeddings if the file records it, or None.
        meta: Metadata of the checkpoint that the file was exported from, as JSON text, or "".
        prefix: Prefix that `select` removed from the names, or "".
        outside: Names of tensors without this prefix, which are not in the mapping.
        ignored: Names of tensors that match each pattern of `select`, which are not in the mapping.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        read: Callable[[str], Any],
        shape: Callable[[str], Sequence[int] | None],
        *,
        kind: Kind,
        entry: str = "",
        grid: tuple[int, int] | None = None,
        meta: str = "",
    ) -> None:
        """Create the mapping without reading any tensor.

        Args:
            path: Path of the file.
            names: Names of the tensors.
            read: Function that returns the tensor of a name. Its exceptions become an `InputError` that names the file.
            shape: Function that returns the shape of a tensor without reading the tensor, as for `read`; None for a
                value that is not a tensor.
            kind: Kind of the file.
            entry: Key of the tensors in a training checkpoint, or "".
            grid: Patch grid of the position embeddings, or None.
            meta: Metadata of the checkpoint that the file was exported from, or "".

        Raises:
            InputError: A name occurs more than once.
        """
        self.path, self.kind, self.entry, self.grid, self.meta = path, kind, entry, grid, meta
        self._read, self._shape = read, shape
        self.prefix = ""
        self.outside: tuple[str, ...] = ()
        self.ignored: dict[str, tuple[str, ...]] = {}
        # The name in the file of each name of the mapping.
        self._names = {name: name for name in names}
        if len(self._names) < len(names):
            duplicate = next(name for name, count in Counter(names).items() if count > 1)
            raise cannot_read(path, f"duplicate tensor {duplicate!r}")

    def select(self, prefix: str, ignore: Sequence[str]) -> WeightFile:
        """Leave out tensors, in place.

        Args:
            prefix: Only tensors whose name starts with it stay, without it in their names.
            ignore: Shell patterns of names, with or without the prefix, of tensors to leave out.

        Returns:
            The mapping itself.

        Raises:
            InputError: No tensor has the prefix or matches a pattern.
        """
        names = list(self._names)
        inside = [name for name in names if name.startswith(prefix)]
        if not inside:
            starts = sorted({re.split(r"(?<=[./])", name)[0] for name in names})
            raise out_of_range("prefix", prefix, "the start of a tensor name", f"names start with {shorten(starts)}")
        self._names = {name.removeprefix(prefix): name for name in inside if name != prefix}
        for pattern in ignore:
            matches = [
                name
                for name, original in self._names.items()
                if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(original, pattern)
            ]
            if not matches:
                hint = f"such as {shorten(sorted(self._names))}"
                raise out_of_range("ignore", pattern, "a pattern of tensor names", hint)
            self.ignored[pattern] = tuple(self._names.pop(name) for name in matches)
        self.prefix, self.outside = prefix, tuple(name for name in names if not name.startswith(prefix))
        return self

    def __getitem__(self, name: str) -> Any:
        return self._call(self._read, name)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor without reading the tensor, or None for a value that is not a tensor."""
        shape = self._call(self._shape, name)
        return None if shape is None else tuple(shape)

    def _call(self, function: Callable[[str], Any], name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        try:
            return function(self._names[name])
        except MemoryError:
            raise
        except Exception as error:  # readers raise many types for a damaged file
            raise cannot_read(self.path, f"cannot read {name!r}: {first_line(error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_file(path: str | Path, entry: str | None = None) -> WeightFile:
    """Open a weight file. Code in pickled files is never executed.

    Args:
        path: A `.safetensors` file; a `.npz` file; or a file of `torch.save`, which requires torch. The content decides
            and not the suffix.
        entry: Key of the tensors in a torch checkpoint; by default the first of `state_dict_ema`, `model_ema`,
            `state_dict`, `model`, `teacher` and `student`, or else the checkpoint itself.

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

    try:
        file = safe_open(path, framework="numpy")
        names, metadata = tuple(file.keys()), file.metadata() or {}
    except MemoryError:
        raise
    except Exception as error:  # raised by safetensors or the system
        raise cannot_read(path, f"cannot read as safetensors: {first_line(error)}") from error
    grid = parse_size(metadata.get("grid", ""))
    if "grid" in metadata and grid is None:
        raise cannot_read(path, f"expected metadata grid=HEIGHTxWIDTH, got grid={metadata['grid']!r}")
    return WeightFile(
        path, names, file.get_tensor, lambda name: file.get_slice(name).get_shape(), kind="safetensors", grid=grid,
        meta=metadata.get(META, ""),
    )  # fmt: skip


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
    return WeightFile(
        path, tuple(tensors), tensors.__getitem__, lambda name: getattr(tensors[name], "shape", None),
        kind="torch", entry=entry,
    )  # fmt: skip


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
