"""Manifest of a checkpoint: the size and the digest of every file, written when all others are complete.

The digests cover the files as they are on disk, so one process can write them, whatever the sharding of the arrays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
import xxhash

from tcvit_jax import schema
from tcvit_jax.errors import InputError
from tcvit_jax.files import check_regular

NAME = "manifest.json"
_BLOCK = 2**18
_THREADS = 8


class _File(TypedDict):
    size: Annotated[int, msgspec.Meta(ge=0)]
    # XXH3 reads 8 GB/s on one core where SHA-256 reads 1.5 GB/s. It detects damage; it is no protection from forgery.
    xxh3_128: str


class _Manifest(TypedDict):
    files: dict[str, _File]


def write(directory: Path) -> None:
    """Write the manifest of all files below a directory, in which all other files are complete.

    Hidden files, which belong to the system and not to a checkpoint, are left out here and in `find_damage`.

    Args:
        directory: The directory.

    Raises:
        InputError: An entry is neither a directory nor a regular file.
        OSError: A file cannot be read, or the manifest cannot be written.
    """
    names = sorted(_names(directory))
    for name in names:
        check_regular(directory / name)
    with ThreadPoolExecutor(_THREADS) as pool:
        files = dict(zip(names, pool.map(lambda name: _describe(directory / name), names), strict=True))
    # Without a newline at the end, so that it is not complete without its last byte.
    (directory / NAME).write_text(json.dumps(_Manifest(files=files), indent=1))


def exists(directory: Path) -> bool:
    """Return whether a directory has a manifest, of whatever content."""
    return os.path.lexists(directory / NAME)


def find_damage(directory: Path, within: str = "") -> str | None:
    """Compare the files below a directory with its manifest.

    Only regular files are opened, and no file is read unless all of them have the right size.

    Args:
        directory: The directory.
        within: A subdirectory to which the comparison is limited; by default everything is compared.

    Returns:
        The first difference, such as `"ema/_METADATA: not found"`, or None if there is none.
    """
    try:
        entries = schema.read_json(directory / NAME, _Manifest)["files"]
        files = {name: entry for name, entry in entries.items() if name.startswith(within)}
        if not files:
            return f"{NAME}: {within or 'no'} files not listed"
        for name, entry in files.items():
            check_regular(directory / name)
            if (size := (directory / name).stat().st_size) != entry["size"]:
                return f"{name}: expected {entry['size']:,} bytes, got {size:,}"
        for name in _names(directory):
            if name.startswith(within) and name not in files:
                return f"{name}: not listed in {NAME}"
        with ThreadPoolExecutor(_THREADS) as pool:
            entries = pool.map(lambda name: _describe(directory / name), files)
            for (name, expected), entry in zip(files.items(), entries, strict=True):
                if entry != expected:
                    return f"{name}: its content has changed since it was written"
    except InputError as error:
        return str(error).replace(f"{directory}/", "")
    except OSError as error:
        return f"{error.filename or directory}: {error.strerror}".replace(f"{directory}/", "")
    return None


def check_regular_files(directory: Path) -> None:
    """Raise an `InputError` if an entry below a directory is neither a directory nor a regular file.

    Links are followed. Reading a pipe or a device might never end.
    """
    for name in _names(directory):
        check_regular(directory / name)


def _describe(path: Path) -> _File:
    """Return the size and the digest of a file."""
    digest, block, size = xxhash.xxh3_128(), memoryview(bytearray(_BLOCK)), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
    return _File(size=size, xxh3_128=digest.hexdigest())


def _names(directory: Path) -> Iterator[str]:
    """Yield the relative paths of all entries below a directory that are no directories, without hidden ones."""
    for folder, subfolders, files in os.walk(directory, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name).relative_to(directory).as_posix()
            if not name.startswith(".") and path != NAME:
                yield path
