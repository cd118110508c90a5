"""Types and ranges of the values in JSON files, checked once where a file is read.

A schema is a type: `TypedDict`, `dict`, `list` and unions of plain types, with ranges as in `Count`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, cast

import msgspec

from tcvit_jax.errors import cannot_read, first_line, invalid
from tcvit_jax.files import check_regular, read_text

# JSON has neither NaN nor infinities, but Python reads 1e999 as one.
Number = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
# Steps and counts are 32-bit integers on devices.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
# Files of the package are far smaller; a sparse file of terabytes must not fill the memory.
MAX_BYTES = 2**28
# Values of the package have less than ten levels; code that recurses over thousands would exceed Python's limit.
_MAX_DEPTH = 32

_T = TypeVar("_T")


def read_json(path: str | Path, schema: type[_T], limit: int = MAX_BYTES) -> _T:
    """Read a JSON file.

    Args:
        path: The file.
        schema: The type of its content.
        limit: The largest size of the file in bytes.

    Returns:
        The content. Keys that the schema does not name are kept.

    Raises:
        InputError: The file is not found, not a regular file, too large, not JSON, or does not match the schema.
    """
    return parse(read_limited(path, limit), path, schema)


def read_limited(path: str | Path, limit: int = MAX_BYTES) -> str:
    """Read a text file of up to 256 MiB, as `files.read_text` does.

    Args:
        path: The file.
        limit: The largest size of the file in bytes.

    Raises:
        InputError: As for `files.read_text`, or the file is larger.
    """
    check_regular(path)
    size = Path(path).stat().st_size
    if size > limit:
        raise cannot_read(path, f"expected up to {limit:,} bytes, got {size:,}")
    return read_text(path)


def parse(text: str, subject: str | Path, schema: type[_T]) -> _T:
    """Parse JSON text.

    Args:
        text: The text.
        subject: What it is, for error messages, such as `"metrics.jsonl line 3"`.
        schema: The type of its value.

    Returns:
        The value, as in `check`.

    Raises:
        InputError: The text is not JSON, an object in it has a key twice, or it does not match the schema.
    """
    try:
        values = json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_reject_duplicates)
    except ValueError as error:
        raise invalid(subject, f"invalid JSON ({first_line(error)})") from error
    except RecursionError as error:
        raise invalid(subject, f"expected at most {_MAX_DEPTH} levels of nesting") from error
    return check(values, subject, schema)


def check(values: Any, subject: str | Path, schema: type[_T]) -> _T:
    """Check values that were read from JSON.

    Args:
        values: The values.
        subject: Where they come from, for error messages.
        schema: The expected type.

    Returns:
        The same values. Keys that the schema does not name are kept.

    Raises:
        InputError: The values do not match the schema. The message names the first key that does not.
    """
    if _depth(values) > _MAX_DEPTH:
        raise invalid(subject, f"expected at most {_MAX_DEPTH} levels of nesting")
    try:
        msgspec.convert(values, schema)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        key = path.strip("`").removeprefix("$").removeprefix(".")
        problem = problem[:1].lower() + problem[1:]
        raise invalid(subject, f"{key}: {problem}" if key else problem) from error
    return cast("_T", values)


def _depth(values: Any) -> int:
    """Return the number of nested containers, up to one more than the limit, without recursion."""
    depth, level = 0, [values]
    while depth <= _MAX_DEPTH:
        containers = [value for value in level if isinstance(value, dict | list)]
        if not containers:
            break
        depth += 1
        level = [each for value in containers for each in (value.values() if isinstance(value, dict) else value)]
    return depth


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(name for name in values if names.count(name) > 1)!r}")
    return values


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
