"""Random access to the records of TFRecord files."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from tcvit_jax.data.sources.record_index import read_index, split_record
from tcvit_jax.errors import InputError, cannot_read

# Far below the usual limit of 1024 open files per process, since other code needs some. ImageNet has 1152 files.
_MAX_OPEN_FILES = 256
# The headers of several files are read at once, because on a shared disk each read takes a round trip.
_INDEX_THREADS = 16


class Part(NamedTuple):
    """Consecutive records of one file.

    Attributes:
        path: The file.
        skip: The number of records before the part.
        take: The number of records in the part, or None for all to the end.
        total: The number of records that the file must have, or None if it is not known.
    """

    path: str
    skip: int = 0
    take: int | None = None
    total: int | None = None


class RecordFiles:
    """The payloads of several parts, one after the other.

    Each process opens a file when it first reads from it, and any number of threads and processes may read. A pickle
    holds the names of the files but no offsets.

    Args:
        parts: The files and the range of records in each.
        verify: Whether to verify the checksums of each record that is read.

    Raises:
        InputError: A file is missing, damaged, or has the wrong number of records.
    """

    def __init__(self, parts: Sequence[Part], verify: bool = True) -> None:
        self._verify = verify
        self._create_caches()
        paths = list(dict.fromkeys(part.path for part in parts))
        with ThreadPoolExecutor(_INDEX_THREADS) as threads:
            counts = dict(zip(paths, (len(index) - 1 for index in threads.map(self._index, paths)), strict=True))
        for part in parts:
            if part.total not in (None, counts[part.path]):
                raise _wrong_count(part.path, counts[part.path], part.total)
        self._paths = [part.path for part in parts]
        self._skips = [part.skip for part in parts]
        self._totals = [counts[part.path] for part in parts]
        takes = [counts[part.path] - part.skip if part.take is None else part.take for part in parts]
        self._ends = np.cumsum(takes, dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of records in all parts."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> bytes:
        """Return the payload of the record at `index`, in `0..len - 1`.

        Raises:
            IndexError: `index` is out of range.
            InputError: The record is damaged, or the file has changed since it was indexed or cannot be read.
        """
        part, record = self._locate(index)
        path = self._paths[part]
        offsets = self._index(path)
        if len(offsets) - 1 != self._totals[part]:
            raise _wrong_count(path, len(offsets) - 1, self._totals[part])
        start, end = offsets[record : record + 2].tolist()
        length = end - start
        try:
            file = self._file(path)
            content = os.pread(file.descriptor, length, start)
        except OSError as error:
            raise cannot_read(path, f"cannot read record {record}: {error.strerror or error}") from error
        if len(content) != length:
            raise cannot_read(path, f"cannot read record {record}: expected {length} bytes, got {len(content)}")
        try:
            return split_record(content, self._verify)
        except ValueError as error:
            hint = "replace the file, or set data.verify=False"
            raise cannot_read(path, f"record {record} at byte {start}: {error}", hint) from error

    def location(self, index: int) -> str:
        """Return the file of a record and its number in that file, for error messages."""
        part, record = self._locate(index)
        return f"record {record} of {self._paths[part]}"

    def descriptions(self) -> list[str]:
        """Return the name of the file of each part, without its directory, and its number of records."""
        counts = np.diff(self._ends, prepend=0).tolist()
        return [f"{os.path.basename(path)} {count}" for path, count in zip(self._paths, counts, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the caches of this process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_index", "_file")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state with empty caches."""
        self.__dict__.update(state)
        self._create_caches()

    def _create_caches(self) -> None:
        self._index: Callable[[str], np.ndarray] = functools.lru_cache(maxsize=None)(read_index)
        self._file: Callable[[str], _OpenFile] = functools.lru_cache(_MAX_OPEN_FILES)(_OpenFile)

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the part of a record and its number in the part's file."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} records")
        part = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[part - 1]) if part else 0
        return part, index - first + self._skips[part]


class _OpenFile:
    """A file descriptor that is closed with its last reference, so that no thread reads from a closed file."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    # A default argument keeps `os.close` available: at interpreter exit the module may be deleted before its objects.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)


def _wrong_count(path: str, count: int, total: int | None) -> InputError:
    return cannot_read(path, f"expected {total} records, got {count}", "the file is incomplete or of another version")
