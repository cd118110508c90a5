"""Atomic writing of files and directories: a kill or an error leaves the old content, or nothing."""

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

from tcvit_jax.errors import InputError, first_line


@contextmanager
def write(path: str | Path) -> Generator[Path]:
    """Yield a draft path beside `path`, and rename it to `path` when the block ends.

    The block makes a file or a directory of the draft, whose name ends in that of `path`, suffix included. A file
    replaces an old file, a directory an empty one. Missing parent directories are created. After an error the draft and
    the created parents are removed; a killed process leaves only the hidden draft.

    Args:
        path: the file or directory to write.

    Yields:
        The path of the draft, which does not exist yet.

    Raises:
        InputError: `path` cannot be written. Whatever the block raises becomes this error, except an `InputError`,
            which passes unchanged.
    """
    path = Path(path)
    new_parents = [parent for parent in path.parents if not parent.exists()]
    # A process number would not be unique: several machines may share a disk.
    draft = path.with_name(f".partial-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield draft
            os.replace(draft, path)
            new_parents.clear()
    finally:
        # After an interruption too. After a success there is nothing to remove.
        shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):
            draft.unlink()
        for parent in new_parents:
            with suppress(OSError):
                parent.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically; what is no plain file, such as `/dev/stdout` or a link, is written through.

    Raises:
        InputError: the file cannot be written.
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

    Raises:
        InputError: the file cannot be written.
    """
    write_text(path, json.dumps(values, indent=2) + "\n")


@contextmanager
def write_errors(path: str | Path) -> Generator[None]:
    """Turn whatever the block raises into one line that names `path`.

    Libraries raise many types for a file they cannot write: the error of TensorStore, for one, is no `OSError`.

    Raises:
        InputError: the block failed; its own `InputError` passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot write {str(path)!r}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return why something could not be written, without the path; the system's words for a full disk come first."""
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(number) in text or errno.errorcode[number] in text:
            return os.strerror(number)
    return (isinstance(error, OSError) and error.strerror) or first_line(error)
