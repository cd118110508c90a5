"""Reading of files of `torch.save` without executing code in them.

torch reads tensors, containers and numbers with `weights_only=True`. Training scripts also save paths, dates, NumPy
scalars and their arguments. Stand-ins below read these standard types; a stand-in has no effect beyond its own value.
Objects of other classes are refused, because reading them can execute code.
"""

from __future__ import annotations

import argparse
import datetime
import decimal
import pathlib
import re
import types
import uuid
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from tcvit_jax.errors import InputError, cannot_read, requires
from tcvit_jax.files import check_regular

# In older versions `weights_only=True` can execute code: CVE-2025-32434 (before 2.6), CVE-2026-24747 (before 2.10).
MIN_TORCH = (2, 10)
# The protocol of `torch.save`; torch reads only parts of the others with `weights_only=True`.
PROTOCOL = 2
# The ways in which torch names what it refuses.
_REFUSED = re.compile(
    r"GLOBAL (\S+) (?:was not an allowed|whose module)|(?:unrecognized function|but got) <[a-z -]+'?([\w.]+)"
)
SAVE_HINT = "save only the tensors: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


class DType:
    """Stand-in for `numpy.dtype`, limited to numbers and text. NumPy itself trusts the fields of a pickled dtype."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        """Create the dtype of a code such as `"f8"`."""
        if not re.fullmatch(r"[biufcSU]\d{1,4}", code):
            raise ValueError(f"unsupported NumPy dtype {code!r}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Set the byte order, which is the second element."""
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class Array:
    """Stand-in for `numpy.ndarray`, which NumPy converts with `np.asarray`.

    Attributes:
        value: The array.
    """

    def __init__(self, *arguments: object) -> None:
        """Create an empty array. The arguments of NumPy's function, which describe one, are ignored."""
        self.value = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Set the array from its version, shape, dtype, order and bytes."""
        _, shape, dtype, is_fortran, data = state
        self.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if is_fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the array, as `np.asarray` requires."""
        return self.value.astype(dtype) if dtype is not None else self.value

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self.value.dtype


def load(path: str | Path, alternative: str, is_verified: bool = False) -> Any:
    """Load a file of `torch.save` that contains only tensors and objects of standard types.

    Args:
        path: The file. It is memory-mapped if its format allows.
        alternative: What to do without torch, such as `"use a .safetensors file"`, for the error message.
        is_verified: Whether the checksums of the file were compared before.

    Returns:
        The loaded object. Its tensors are on the CPU; `Array` stands for a NumPy array, a dict for a `defaultdict`, a
        list for a `deque`, and a pure path for a path.

    Raises:
        InputError: The file is not a regular file, is damaged or contains an object of another class, or torch is not
            installed or is too old.
    """
    check_regular(path)
    torch = _import_torch(path, alternative)
    try:
        is_zip = zipfile.is_zipfile(path)
        with open(path, "rb") as file:
            protocol = _check_archive(path, is_verified) if is_zip else _protocol(file)
        if protocol not in (None, PROTOCOL):
            raise cannot_read(path, f"expected pickle protocol {PROTOCOL} of torch.save, got {protocol}", SAVE_HINT)
        # torch reads any path with this suffix as safetensors, and maps only paths into memory.
        is_mapped = is_zip and Path(path).suffix != ".safetensors"
        with standard_types(), open(path, "rb") as file:
            return torch.load(path if is_mapped else file, map_location="cpu", weights_only=True, mmap=is_mapped)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # torch raises many types for a damaged pickle
        raise _load_error(path, error) from error


def standard_types() -> Any:
    """Return a context manager in which `torch.load` with `weights_only=True` also reads the standard types."""
    import torch

    standard = {**STANDARD_TYPES, "torch.torch_version.TorchVersion": torch.torch_version.TorchVersion}
    return torch.serialization.safe_globals([(value, name) for name, value in standard.items()])


def reason(error: BaseException) -> str:
    """Return the cause of an error of `torch.load` in one line, without torch's advice to execute code in the file."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).replace("Weights only load failed. ", "")
    lines = (line.strip() for line in text.splitlines() if not re.search("weights_only|two options", line))
    return next(filter(None, lines), type(error).__name__)


def _import_torch(path: str | Path, alternative: str) -> Any:
    try:
        import torch
    except ImportError as error:
        hint = f'pip install "tcvit_jax[convert]", or {alternative}'
        raise requires(str(path), "torch, which is not installed", hint) from error
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version and tuple(map(int, version.groups())) < MIN_TORCH:
        hint = f"older versions such as {torch.__version__} can execute code in a pickle"
        raise requires(str(path), f"torch>={MIN_TORCH[0]}.{MIN_TORCH[1]}", hint)
    return torch


def _check_archive(path: str | Path, is_verified: bool) -> int | None:
    """Check the members of an archive of torch, and return the protocol of its pickle."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        names = [member.filename.rpartition("/")[2] for member in members]
        if "constants.pkl" in names:
            raise cannot_read(path, "expected tensors, got a TorchScript archive", SAVE_HINT)
        # Members that are larger than the file, or overlap, are a decompression bomb. torch does not compress.
        is_compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if is_compressed or sum(member.file_size for member in members) > Path(path).stat().st_size:
            raise cannot_read(path, "expected an uncompressed archive, as torch.save writes it")
        # torch itself does not compare the checksums.
        damaged_member = None if is_verified else file.testzip()
        if damaged_member is not None:
            raise ValueError(f"wrong checksum of {damaged_member}")
        pickles = [member for member, name in zip(members, names, strict=True) if name == "data.pkl"]
        if not pickles:
            return None
        with file.open(pickles[0]) as member:
            return _protocol(member)


def _protocol(file: IO[bytes]) -> int | None:
    """Return the protocol of a pickle, or None if it does not record one."""
    start = file.read(2)
    return start[1] if len(start) == 2 and start[0] == 0x80 else None


def _load_error(path: str | Path, error: Exception) -> InputError:
    """Return the error for an exception of `torch.load`, with the name of the class or function that was refused."""
    match = _REFUSED.search(str(error))
    if match and "Weights only load failed" in str(error):
        name = match[1] or match[2]
        problem = f"contains {name!r}; only tensors and standard types are read, because others can execute code"
        return cannot_read(path, problem, SAVE_HINT)
    return cannot_read(path, f"cannot read as a torch checkpoint: {reason(error)}")


def _scalar(dtype: DType, data: bytes) -> np.generic:
    """Stand in for the function that restores a NumPy scalar."""
    return np.frombuffer(data, dtype.value, 1)[0]


def _dict(*arguments: object) -> dict[Any, Any]:
    """Stand in for `defaultdict`, whose items follow its construction."""
    return {}


def _list(items: Iterable[Any] = (), *arguments: object) -> list[Any]:
    """Stand in for `deque`."""
    return list(items)


def _arguments(*arguments: object) -> tuple[object, ...]:
    """Stand in for `range` and `slice`, which have only their arguments."""
    return arguments


class _Name:
    """Stand-in for a class that is stored by its name, such as the `int` of a `defaultdict(int)`."""


def _standard_types() -> dict[str, Callable[..., Any]]:
    """Return the stand-in of each standard type by its name in pickles."""
    standard: dict[str, Callable[..., Any]] = {
        "argparse.Namespace": argparse.Namespace,
        "types.SimpleNamespace": types.SimpleNamespace,
        "builtins.frozenset": frozenset,
        "builtins.range": _arguments,
        "builtins.slice": _arguments,
        "collections.defaultdict": _dict,
        "collections.deque": _list,
        "decimal.Decimal": decimal.Decimal,
        "uuid.UUID": uuid.UUID,
    }
    standard |= {
        f"builtins.{name}": _Name for name in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple")
    }
    for each in (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone):
        standard[f"datetime.{each.__name__}"] = each
    for module in ("pathlib", "pathlib._local"):  # the latter in Python 3.13
        for name in ("Path", "PosixPath", "PurePath", "PurePosixPath"):
            standard[f"{module}.{name}"] = pathlib.PurePosixPath
        for name in ("PureWindowsPath", "WindowsPath"):
            standard[f"{module}.{name}"] = pathlib.PureWindowsPath
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # the former before NumPy 2
        standard |= {f"{module}.scalar": _scalar, f"{module}._reconstruct": Array}
    standard |= {"numpy.dtype": DType, "numpy.ndarray": Array}
    for name in ("bool", "bool_", "uint8", "int32", "int64", "float16", "float32", "float64"):
        standard[f"numpy.{name}"] = _Name
    return standard


STANDARD_TYPES = _standard_types()
