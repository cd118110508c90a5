"""Byte offsets of the records in a TFRecord file, cached in an index file.

A TFRecord file is a sequence of records. Each is the length of its payload (uint64, little-endian), a checksum of these
eight bytes, the payload, and a checksum of the payload.
"""

import hashlib
import os
import struct
from pathlib import Path

import google_crc32c
import numpy as np

from tcvit_jax import atomic, files
from tcvit_jax.errors import InputError, cannot_read

HEADER_BYTES = 12
FOOTER_BYTES = 4
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_GZIP = b"\x1f\x8b"
_MASK = 0xA282EAD8
# An index file begins with its version, then the size and the modification time of the TFRecord file.
_VERSION = 1
_STAMP_LENGTH = 3


def read_index(path: str) -> np.ndarray:
    """Return the byte offset of every record, followed by the file size: int64 `[N + 1]`, increasing.

    The offsets come from an index file if there is one for the current data. Otherwise the headers are read and their
    checksums verified, and the index is saved: next to the data in `.tcvit_index/`, or in the user's cache
    (`$XDG_CACHE_HOME`, else `~/.cache`) if that directory is not writable. Several processes may do this at once.

    Args:
        path: The TFRecord file.

    Returns:
        The offsets, int64 `[N + 1]`.

    Raises:
        InputError: The file is missing, truncated, not regular or not a TFRecord file. The message names its path.
    """
    files.check_regular(path, "a TFRecord file")
    try:
        status = os.stat(path)
        stamp = [_VERSION, status.st_size, status.st_mtime_ns]
        for index_path in _index_paths(path):
            offsets = _load(index_path, stamp)
            if offsets is not None:
                return offsets
        offsets = scan_offsets(path, status.st_size)
    except OSError as error:
        raise cannot_read(path, f"cannot read records: {error.strerror or error}") from error
    index = np.array([*stamp, *offsets, status.st_size], np.int64)
    # An index that cannot be saved is not an error: the next process scans the file again.
    any(_save(index_path, index) for index_path in _index_paths(path))
    return index[_STAMP_LENGTH:]


def scan_offsets(path: str, size: int) -> list[int]:
    """Return the first byte of every record, from the headers alone.

    Args:
        path: The TFRecord file.
        size: The size of the file in bytes.

    Returns:
        The offset of each record.

    Raises:
        InputError: A header is damaged, or the last record is truncated.
        OSError: The file cannot be read.
    """
    offsets: list[int] = []
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = 0
        while end < size:
            header = os.pread(descriptor, HEADER_BYTES, end)
            if header.startswith(_GZIP) and not offsets:
                raise cannot_read(path, "compressed with gzip", "decompress it")
            if len(header) < HEADER_BYTES:
                raise _damaged(path, offsets, end, "is truncated in its header")
            length, checksum = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != checksum:
                raise _damaged(path, offsets, end, "has a wrong checksum of its length")
            offsets.append(end)
            end += HEADER_BYTES + length + FOOTER_BYTES
        if end > size:
            problem = f"is truncated: expected a file of {end} bytes, got {size}"
            raise _damaged(path, offsets[:-1], offsets[-1], problem)
    finally:
        os.close(descriptor)
    return offsets


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of TFRecord: the CRC-32C of `data`, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def split_record(record: bytes, verify: bool) -> bytes:
    """Return the payload of a record.

    Args:
        record: The record with its header and its footer.
        verify: Whether to verify its length and its checksums.

    Returns:
        The payload.

    Raises:
        ValueError: The length or a checksum is wrong.
    """
    payload = record[HEADER_BYTES:-FOOTER_BYTES]
    if verify:
        length, header_checksum = _HEADER.unpack_from(record)
        if length != len(payload) or masked_crc32c(record[:8]) != header_checksum:
            raise ValueError("the length is damaged, or has changed since the file was indexed")
        if masked_crc32c(payload) != _FOOTER.unpack(record[-FOOTER_BYTES:])[0]:
            raise ValueError("wrong checksum of the payload")
    return payload


def _damaged(path: str, offsets: list[int], position: int, problem: str) -> InputError:
    """Return the error for the record after `offsets`, at byte `position`."""
    hint = "the file is incomplete, damaged or not a TFRecord file"
    return cannot_read(path, f"record {len(offsets)} at byte {position} {problem}", hint)


def _index_paths(path: str) -> tuple[Path, Path]:
    """Return the possible paths of the index of a file, the preferred one first."""
    file = Path(os.path.abspath(path))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    # Datasets have files of the same name, so the path in the cache depends on the directory.
    directory = hashlib.sha256(os.fsencode(file.parent)).hexdigest()[:16]
    name = f"{file.name}.npy"
    return file.parent / ".tcvit_index" / name, cache / "tcvit_jax" / "record_index" / directory / name


def _load(index_path: Path, stamp: list[int]) -> np.ndarray | None:
    """Return the offsets saved at `index_path`, or None if there are none with this stamp."""
    try:
        files.check_regular(index_path)
        with open(index_path, "rb") as file:
            index = np.lib.format.read_array(file, allow_pickle=False)
    # A damaged header may claim any length.
    except (OSError, ValueError, MemoryError):
        return None
    if index.dtype != np.int64 or index.ndim != 1 or index[:_STAMP_LENGTH].tolist() != stamp:
        return None
    offsets = index[_STAMP_LENGTH:]
    edges_match = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == stamp[1]
    return offsets if edges_match and (np.diff(offsets) >= HEADER_BYTES + FOOTER_BYTES).all() else None


def _save(index_path: Path, index: np.ndarray) -> bool:
    """Write an index atomically, since other processes may read or write it. Return False if it is not writable."""
    try:
        with atomic.write(index_path) as draft, open(draft, "xb") as file:
            np.save(file, index)
    except InputError:
        return False
    return True
