"""Where the records of a TFRecord file begin: found once, kept in a file, found again when the data change.

A TFRecord file is a row of records. Each is the length of its payload (uint64, little-endian), a checksum of these
eight bytes, the payload, and a checksum of the payload.
"""

import hashlib
import os
import struct
from pathlib import Path

import numpy as np

from tcvit_jax import atomic
from tcvit_jax.errors import InputError

HEADER_BYTES = 12
FOOTER_BYTES = 4
_HEADER = struct.Struct("<QI")
_GZIP = b"\x1f\x8b"
_CASTAGNOLI = 0x82F63B78
_MASK = 0xA282EAD8
# In front of the offsets in an index file: its version, then the size and the time of what it is of.
_VERSION = 1
_STAMP_LENGTH = 3


def read_index(path: str) -> np.ndarray:
    """The first byte of every record, and the file's size: int64 [N + 1], rising.

    It comes from an index file where there is one for the data as they are now; otherwise the headers are read, with
    their checksums, and the index is kept: beside the data in `.tcvit_index/`, or in the user's cache
    (`$XDG_CACHE_HOME`, else `~/.cache`) where that cannot be written. Any number of processes may do so at once.

    Raises:
        InputError: the file is missing, truncated or no TFRecord; the message holds its path.
    """
    try:
        status = os.stat(path)
        stamp = [_VERSION, status.st_size, status.st_mtime_ns]
        for place in _places(path):
            kept = _load(place, stamp)
            if kept is not None:
                return kept
        starts = scan(path, status.st_size)
    except OSError as error:
        raise InputError(f"cannot read records of {path}: {error.strerror or error}") from error
    index = np.array([*stamp, *starts, status.st_size], np.int64)
    # Nowhere to keep it is no reason to stop: the next process looks again.
    any(_save(place, index) for place in _places(path))
    return index[_STAMP_LENGTH:]


def scan(path: str, size: int) -> list[int]:
    """The first byte of every record of a file of `size` bytes, from the headers alone.

    Raises:
        InputError: a header is damaged, or the last record is cut off.
        OSError: the file cannot be read.
    """
    starts: list[int] = []
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = 0
        while end < size:
            header = os.pread(descriptor, HEADER_BYTES, end)
            if header.startswith(_GZIP) and not starts:
                raise InputError(f"cannot read records of {path}: it is compressed with gzip; unpack it")
            if len(header) < HEADER_BYTES:
                raise InputError(_damage(path, starts, end, "is cut off in its header"))
            length, checksum = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != checksum:
                raise InputError(_damage(path, starts, end, "has a damaged length, or the file is no TFRecord"))
            starts.append(end)
            end += HEADER_BYTES + length + FOOTER_BYTES
        if end > size:
            raise InputError(_damage(path, starts[:-1], starts[-1], f"is cut off: the file has {size} bytes of {end}"))
    finally:
        os.close(descriptor)
    return starts


def masked_crc32c(data: bytes) -> int:
    """The checksum of TFRecord: the CRC-32C of `data`, rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
    return byte


_TABLE = tuple(_crc_of_byte(byte) for byte in range(256))


def _damage(path: str, starts: list[int], at: int, what: str) -> str:
    return f"cannot read records of {path}: record {len(starts)}, at byte {at}, {what}"


def _places(path: str) -> tuple[Path, Path]:
    """Where the index of a file may lie, the better place first."""
    file = Path(os.path.abspath(path))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    # Data sets share names of files: the directory tells them apart.
    directory = hashlib.sha256(os.fsencode(file.parent)).hexdigest()[:16]
    name = f"{file.name}.npy"
    return file.parent / ".tcvit_index" / name, cache / "tcvit_jax" / "record_index" / directory / name


def _load(place: Path, stamp: list[int]) -> np.ndarray | None:
    """The offsets kept at `place`, or None where there are none for data of this stamp."""
    try:
        with open(place, "rb") as file:
            kept = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    whole = kept.dtype == np.int64 and kept.ndim == 1 and len(kept) > _STAMP_LENGTH
    return kept[_STAMP_LENGTH:] if whole and kept[:_STAMP_LENGTH].tolist() == stamp else None


def _save(place: Path, index: np.ndarray) -> bool:
    """Writes an index in one step, since others may be reading or writing it. False where that is not allowed."""
    try:
        with atomic.write(place) as draft, open(draft, "xb") as file:
            np.save(file, index)
    except InputError:
        return False
    return True
