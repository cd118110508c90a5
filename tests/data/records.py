"""Writer of TFRecord files for tests."""

import struct
from collections.abc import Sequence
from pathlib import Path

PAYLOADS = [b"one", b"", b"three" * 100, bytes(range(256))]


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of `data`, computed bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            feedback = (crc ^ (byte >> bit)) & 1
            crc = (crc >> 1) ^ (0x82F63B78 * feedback)
    return crc ^ 0xFFFFFFFF


def checksum(data: bytes) -> bytes:
    """Return the masked CRC-32C of `data`, as TFRecord files store it."""
    crc = crc32c(data)
    rotated = ((crc >> 15) + (crc << 17)) % 2**32
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def write_records(path: Path, payloads: Sequence[bytes]) -> Path:
    with open(path, "wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            file.write(length + checksum(length) + payload + checksum(payload))
    return path
