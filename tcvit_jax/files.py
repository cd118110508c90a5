"""Paths and files of users: expansion of paths, and reading of text without surprises."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from tcvit_jax.errors import cannot_read, first_line, invalid

_VARIABLE = re.compile(r"\$(?:\{([^{}$]+)\}|(\w+))")


def expand(path: str, name: str) -> str:
    """Expand `~`, `~user` and environment variables (`$NAME`, `${NAME}`) at their places in a path.

    Args:
        path: The path.
        name: The flag or configuration key, for error messages.

    Returns:
        The path, without resolving symbolic links or making it absolute.

    Raises:
        InputError: A variable is not set, or a home directory is not known.
    """

    def value(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if variable not in os.environ:
            raise invalid(f"{name}={path!r}", f"environment variable {variable!r} is not set")
        return os.environ[variable]

    expanded = os.path.expanduser(_VARIABLE.sub(value, path))
    if expanded.startswith("~") and not os.path.lexists(expanded):
        raise invalid(f"{name}={path!r}", f"the home directory of {expanded.partition('/')[0]!r} is not known")
    return expanded


def check_regular(path: str | Path, expected: str = "a file") -> None:
    """Check that a path is a regular file, without opening it. Reading a pipe or a device might never end.

    Args:
        path: The path; symbolic links are followed.
        expected: What the file should be, such as `"a weight file"`, for error messages.

    Raises:
        InputError: The path is not found, or is a directory, a pipe, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise cannot_read(path, "not found" if isinstance(error, FileNotFoundError) else first_line(error)) from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS.items() if test(mode)), "a special file")
        raise cannot_read(path, f"expected {expected}, got {kind}")


def read_text(path: str | Path, expected: str = "a text file") -> str:
    r"""Read a text file that a user may have edited with any editor.

    Args:
        path: A regular file in UTF-8, with or without a byte-order mark.
        expected: What the file should be, for error messages.

    Returns:
        The text, with `\n` for every line ending and without the byte-order mark.

    Raises:
        InputError: The file is not found, not a regular file, or not UTF-8.
    """
    check_regular(path, expected)
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise cannot_read(path, f"not UTF-8 text (byte {error.start})", "save it as UTF-8") from error
    except OSError as error:
        raise cannot_read(path, error.strerror or first_line(error)) from error


def read_lines(path: str | Path, expected: str = "a text file") -> list[str]:
    """Read the lines of a text file, without blanks at their ends and without empty lines at the end of the file.

    Args:
        path: As for `read_text`.
        expected: As for `read_text`.

    Raises:
        InputError: As for `read_text`.
    """
    return [line.rstrip() for line in read_text(path, expected).rstrip().split("\n")]


_KINDS = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
