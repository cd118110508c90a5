"""The exception for user errors, and the functions that word every one of them.

Each message is one line in one of five forms:

    <name>=<value>: must be <condition>; <hint>
    unknown <kind> '<name>': did you mean '<nearest>'?
    <option> requires <requirement>: <hint>
    <option> cannot be combined with <other>: <hint>
    <path or subject>: <problem>; <hint>
"""

import difflib
import numbers
import operator
import re
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsIndex, cast


class InputError(ValueError):
    """An argument, a configuration, a file or an environment that cannot be used.

    The message is one line; control characters in it, such as those of names in a damaged file, are escaped. The
    command lines print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return `text` on one line, with control characters and lone surrogates escaped as in `repr`."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda match: repr(match[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an exception's message, or the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def out_of_range(name: str, value: object, condition: str, hint: str = "") -> InputError:
    """Return the error for a value of the wrong type or outside its range.

    Args:
        name: The argument or configuration key.
        value: The value that was passed.
        condition: What it must be, such as `">= 0"` or `"an integer"`.
        hint: What to do instead, or an empty string.

    Returns:
        An error such as `alpha=-1: must be in [0, 1]`.
    """
    return InputError(_with_hint(f"{name}={value!r}: must be {condition}", "; ", hint))


def unknown(kind: str, name: object, options: Iterable[str]) -> InputError:
    """Return the error for a name that is not one of `options`.

    Args:
        kind: What the name stands for, such as `"model"`.
        name: The name that was passed.
        options: All valid names.

    Returns:
        An error that suggests the nearest valid name, or lists all of them if none is near.
    """
    options = sorted(options)
    nearest = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"must be one of {', '.join(options)}"
    return InputError(f"unknown {kind} {name!r}: {hint}")


def renamed(kind: str, name: str, new: str) -> InputError:
    """Return the error for a former name.

    Args:
        kind: What the name stands for, such as `"config key"`.
        name: The former name, which was passed.
        new: The current name.

    Returns:
        An error such as `unknown config key 'shape': renamed to 'schedule_family'`.
    """
    return InputError(f"unknown {kind} {name!r}: renamed to {new!r}")


def requires(option: str, requirement: str, hint: str = "") -> InputError:
    """Return the error for an option that needs another one.

    Args:
        option: The option in effect, such as `"distill.teacher='dense'"`.
        requirement: What it needs, such as `"weights"`.
        hint: How to provide it, or an empty string.

    Returns:
        An error such as `distill.teacher='dense' requires weights: set --config.weights=PATH`.
    """
    return InputError(_with_hint(f"{option} requires {requirement}", ": ", hint))


def conflicts(option: str, other: str, hint: str = "") -> InputError:
    """Return the error for two options that exclude each other.

    Args:
        option: One of them, such as `"--checkpoint"`.
        other: The other one, such as `"--config"`.
        hint: What to do instead, or an empty string.

    Returns:
        An error such as `--checkpoint cannot be combined with --config: pass one of them`.
    """
    return InputError(_with_hint(f"{option} cannot be combined with {other}", ": ", hint))


def cannot_read(path: str | Path, problem: str, hint: str = "") -> InputError:
    """Return the error for a file or directory that cannot be read.

    Args:
        path: The file or directory.
        problem: What failed, such as `"not found"`.
        hint: What to do, or an empty string.

    Returns:
        An error such as `ckpt: checkpoint not found`.
    """
    return invalid(path, problem, hint)


def cannot_write(path: str | Path, problem: str, hint: str = "") -> InputError:
    """Return the error for a file or directory that cannot be written.

    Args:
        path: The file or directory.
        problem: What failed, such as `"No space left on device"`.
        hint: What to do, or an empty string.

    Returns:
        An error such as `ckpt: cannot be written: No space left on device`.
    """
    return invalid(path, f"cannot be written: {problem}", hint)


def invalid(subject: str | Path, problem: str, hint: str = "") -> InputError:
    """Return the error for anything else: data, weights, an output directory, an environment.

    Args:
        subject: What is invalid, such as `"metrics.jsonl line 3"`.
        problem: What is wrong with it, such as `"expected a JSON object"`.
        hint: What to do, or an empty string.

    Returns:
        An error such as `images: expected a sequence, got None`.
    """
    return InputError(_with_hint(f"{subject}: {problem}", "; ", hint))


def kind_of(value: object) -> str:
    """Return the type of a value for error messages: `"a list"`, `"None"`, `"a torch.Tensor"`, `"uint8 (2, 3)"`.

    Of an array, these are its dtype and its shape.
    """
    if value is None:
        return "None"
    kind, shape = type(value), getattr(value, "shape", None)
    package = kind.__module__.partition(".")[0]
    if package in ("numpy", "jax", "jaxlib") and isinstance(shape, tuple):
        return f"{getattr(value, 'dtype', kind.__name__)} {shape}"
    name = kind.__qualname__ if package == "builtins" else f"{package}.{kind.__qualname__}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def as_integer(name: str, value: object) -> int:
    """Return `value` as an `int`; floats and booleans are not converted.

    Raises:
        InputError: `value` is not of an integer type. The message names `name`.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            # An array that is not an integer scalar has the method as well.
            pass
    raise out_of_range(name, value, "an integer")


def check_range(
    name: str,
    value: object,
    low: float,
    high: float,
    *,
    excludes_low: bool = False,
    excludes_high: bool = False,
    hint: str = "",
) -> None:
    """Check that a value is a real number from `low` to `high`.

    Args:
        name: The argument or configuration key.
        value: The value that was passed.
        low: The least valid value.
        high: The greatest valid value.
        excludes_low: Whether the value must be greater than `low`.
        excludes_high: Whether the value must be less than `high`.
        hint: What to do instead, or an empty string.

    Raises:
        InputError: `value` is out of range, NaN, a boolean or not a number, such as `alpha=-1: must be in [0, 1]`.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = cast(float, value)
        is_excluded = (excludes_low and number == low) or (excludes_high and number == high)
        if low <= number <= high and not is_excluded:
            return
    interval = f"{'(' if excludes_low else '['}{low:g}, {high:g}{')' if excludes_high else ']'}"
    raise out_of_range(name, value, f"in {interval}", hint)


def _with_hint(message: str, separator: str, hint: str) -> str:
    return f"{message}{separator}{hint}" if hint else message
