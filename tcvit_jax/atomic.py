"""Atomic writing of files and directories: after an error or a kill, the old content remains, if any."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tcvit_jax.devices import device_error
from tcvit_jax.errors import InputError, cannot_write, first_line


@contextmanager
def write(path: str | Path) -> Generator[Path]:
    """Yield a temporary path in the directory of `path`, and rename it to `path` when the block ends.

    The block creates a file or a directory at the temporary path, whose name ends with that of `path`, including the
    suffix. A file replaces an old file, and a directory replaces an empty one. Missing parent directories are created.
    After an error, the temporary path and the created parents are removed; a killed process leaves only the hidden
    temporary path.

    Args:
        path: The file or directory to write.

    Yields:
        The temporary path, which does not exist yet.

    Raises:
        InputError: `path` cannot be written. Any exception of the block is converted to this error, except an
            `InputError`, which is raised unchanged.
    """
    path = Path(path)
    # A process ID would not be unique, because several machines may share a disk.
    draft = path.with_name(f".partial-{uuid.uuid4().hex[:12]}-{path.name}")
    with write_errors(path), parent_directories(path):
        try:
            yield draft
            os.replace(draft, path)
        finally:
            # Also after an interruption. After a success there is nothing to remove.
            shutil.rmtree(draft, ignore_errors=True)
            with suppress(OSError):
                draft.unlink()


@contextmanager
def parent_directories(path: str | Path) -> Generator[None]:
    """Create the missing parent directories of a path, and remove those that are empty when the block ends.

    Args:
        path: The file or directory that the block creates.

    Yields:
        None.

    Raises:
        OSError: A directory cannot be created.
    """
    new_parents = [parent for parent in Path(path).parents if not parent.exists()]
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for parent in new_parents:
            with suppress(OSError):
                parent.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically.

    A symbolic link or a special file, such as `/dev/stdout`, is written directly.

    Args:
        path: The file.
        text: Its content.

    Raises:
        InputError: The file cannot be written.
    """
    path = Path(path)
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        with write_errors(path):
            path.write_text(text)
        return
    with write(path) as draft:
        draft.write_text(text)


def write_json(path: str | Path, values: Any) -> None:
    """Write a JSON file atomically, indented by two spaces.

    Args:
        path: The file.
        values: Its content, values that JSON can encode.

    Raises:
        InputError: The file cannot be written.
    """
    write_text(path, json.dumps(values, indent=2) + "\n")


@contextmanager
def write_errors(path: str | Path) -> Generator[None]:
    """Convert any exception of the block to an `InputError` that names `path`, the device or the memory.

    Libraries raise various types for a file that cannot be written; TensorStore, for example, does not raise `OSError`.

    Args:
        path: The file or directory that the block writes.

    Yields:
        None.

    Raises:
        InputError: The block failed. An `InputError` of the block is raised unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise device_error(error) or cannot_write(path, reason(error)) from error


def reason(error: BaseException) -> str:
    """Return the cause of a write error, without the path; if the disk is full, it is the system's message for that."""
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(number) in text or errno.errorcode[number] in text:
            return os.strerror(number)
    return (isinstance(error, OSError) and error.strerror) or first_line(error)
