"""Ways to damage a file, as disks, editors and interrupted copies do."""

import os
from pathlib import Path


def _replace(path, make):
    path.unlink()
    make(path)


DAMAGES = {
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "text": lambda path: path.write_text("text\n"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00\n"),
    "list": lambda path: path.write_text("[1, 2]\n"),
    "number": lambda path: path.write_text("1e999\n"),
    "nested": lambda path: path.write_text("[" * 100_000 + "\n"),
    "nested object": lambda path: path.write_text('{"a":' * 500 + "1" + "}" * 500 + "\n"),
    "directory": lambda path: _replace(path, Path.mkdir),
    "pipe": lambda path: _replace(path, os.mkfifo),
    "device": lambda path: _replace(path, lambda path: path.symlink_to("/dev/zero")),
    "dangling link": lambda path: _replace(path, lambda path: path.symlink_to("nowhere")),
    "sparse file of a terabyte": lambda path: os.truncate(path, 2**40),
}


def flip_bit(path, position, bit=2):
    """Change one bit of the byte at `position`, a fraction of the size."""
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)
