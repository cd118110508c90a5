"""Random access to the records of TFRecord files, by the index of each."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from tcvit_jax.data.sources.record_index import FOOTER_BYTES, HEADER_BYTES, read_index
from tcvit_jax.errors import InputError

# Far below what a process may have open (often 1024, of which others need some): ImageNet has 1152 files.
_MOST_OPEN = 256
# The headers of many files are read at once: on a shared disk each takes a round trip.
_INDEX_THREADS = 16


class Part(NamedTuple):
    """Consecutive records of one file.

    Attributes:
        path: of the file.
        skip: how many records come before.
        take: how many there are; None for all to the end.
        total: how many records the file must have; None if nobody knows.
    """

    path: str
    skip: int = 0
    take: int | None = None
    total: int | None = None


class RecordFiles:
    """The payloads of several parts, one after the other.

    Files are opened when first read, in each process anew, and any number of threads and processes may read. A pickle
    holds the names of the files and no offsets. The checksums of payloads are not compared: that would take longer than
    decoding an image, which finds most damage.

    Args:
        parts: the files, and which of their records.

    Raises:
        InputError: a file is missing, damaged, or has another number of records than it must.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._open_caches()
        paths = list(dict.fromkeys(part.path for part in parts))
        with ThreadPoolExecutor(_INDEX_THREADS) as threads:
            counts = dict(zip(paths, (len(index) - 1 for index in threads.map(self._index, paths)), strict=True))
        for part in parts:
            if part.total not in (None, counts[part.path]):
                raise InputError(_wrong_count(part.path, counts[part.path], part.total))
        self._paths = [part.path for part in parts]
        self._skips = [part.skip for part in parts]
        self._totals = [counts[part.path] for part in parts]
        takes = [counts[part.path] - part.skip if part.take is None else part.take for part in parts]
        self._ends = np.cumsum(takes, dtype=np.int64)

    def __len__(self) -> int:
        """The number of records in all parts."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> bytes:
        """The payload of the record at `index`, in 0..len-1. Raises `InputError` where the file has changed."""
        part, record = self._find(index)
        path = self._paths[part]
        starts = self._index(path)
        if len(starts) - 1 != self._totals[part]:
            raise InputError(_wrong_count(path, len(starts) - 1, self._totals[part]))
        first, following = starts[record : record + 2].tolist()
        length = following - first - HEADER_BYTES - FOOTER_BYTES
        try:
            file = self._file(path)
            payload = os.pread(file.descriptor, length, first + HEADER_BYTES)
        except OSError as error:
            raise InputError(f"cannot read record {record} of {path}: {error.strerror or error}") from error
        if len(payload) != length:
            raise InputError(f"cannot read record {record} of {path}: it has {len(payload)} bytes of {length}")
        return payload

    def place(self, index: int) -> str:
        """The file of a record and its number there, for messages."""
        part, record = self._find(index)
        return f"record {record} of {self._paths[part]}"

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to one process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_index", "_file")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What was pickled, with nothing open."""
        self.__dict__.update(state)
        self._open_caches()

    def _open_caches(self) -> None:
        self._index: Callable[[str], np.ndarray] = functools.lru_cache(maxsize=None)(read_index)
        self._file: Callable[[str], _OpenFile] = functools.lru_cache(_MOST_OPEN)(_OpenFile)

    def _find(self, index: int) -> tuple[int, int]:
        """The part of a record and its number in the part's file."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} is not in 0..{len(self) - 1}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[part - 1]) if part else 0
        return part, index - before + self._skips[part]


class _OpenFile:
    """A descriptor that is closed with the last reference: a thread may read while another one drops the file."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    # Bound now: at the end of a program the module may be gone before its objects.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)


def _wrong_count(path: str, count: int, total: int | None) -> str:
    return f"{path} has {count} records where {total} were expected: it is not whole, or of another version"
