"""The one exception that a user's mistake ends in, and the wording that every such message shares."""

import difflib
import operator
import re
from collections.abc import Iterable
from typing import SupportsIndex


class InputError(ValueError):
    """Something the user gave cannot be used. One line: the thing, its value, and the nearest right one.

    The scripts print it without a traceback; a library user catches it as a `ValueError`. Control characters, which
    names in a damaged file may hold, are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """`text` on one line: control characters and lone surrogates escaped, as `repr` has them."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: repr(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that says something, or its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unknown(kind: str, name: object, options: Iterable[str]) -> InputError:
    """The error for a name that is not among `options`: names the nearest one, or lists them all.

    Args:
        kind: what the name was meant to be, e.g. `"model"`.
        name: what the user typed.
        options: every name that would have been right.
    """
    options = sorted(options)
    nearest = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose one of: {', '.join(options)}"
    return InputError(f"unknown {kind} {name!r}: {hint}")


def whole(name: str, value: object) -> int:
    """`value` as an int, if it is a whole number by type: 3.9 is not rounded, and True is no number.

    Raises:
        InputError: it is not; the message names `name`.
    """
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        raise InputError(f"{name} takes a whole number, and was given {value!r}")
    return operator.index(value)
