"""Problems with named tensors, and their summary in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from tcvit_jax.convert.formats import Source
from tcvit_jax.models.parameters import Parameter


class InvalidTensorError(Exception):
    """A tensor cannot be converted. The message is the problem, without the name of the tensor."""


# The name of a tensor or variable, and its problem.
Problem = tuple[str, str]

NOT_FOUND, UNEXPECTED = "not found", "unexpected"
MAX_COMPARISONS = 10_000
# Number of entries after which lists in messages end, and number of characters after which an entry ends.
MAX_ENTRIES, MAX_LENGTH = 40, 400


def map_names(pairs: Iterable[tuple[str, Source]]) -> tuple[dict[str, Source], list[Problem]]:
    """Map canonical names to sources in the file.

    Args:
        pairs: Canonical name and source of each tensor.

    Returns:
        The mapping, and a problem for every canonical name that occurs more than once.
    """
    sources: dict[str, Source] = {}
    problems: list[Problem] = []
    for canonical_name, source in pairs:
        if canonical_name in sources:
            problems.append((source.names[0], f"duplicate of {sources[canonical_name].names[0]}"))
        sources[canonical_name] = source
    return sources, problems


def check_values(tensor: np.ndarray) -> None:
    """Check that a tensor is floating-point and finite in float32.

    Raises:
        InvalidTensorError: It is not.
    """
    if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
        raise InvalidTensorError(f"expected a floating-point dtype, got {tensor.dtype.name}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(tensor.astype(np.float32, copy=False)).all()
    if not finite:
        raise InvalidTensorError("must be finite in float32")


def check_shape(shape: Sequence[int], expected: Sequence[int]) -> None:
    """Check that a shape is the expected one.

    Raises:
        InvalidTensorError: It is not.
    """
    if tuple(shape) != tuple(expected):
        raise InvalidTensorError(f"expected shape {tuple(expected)}, got {tuple(shape)}")


def check_use(row: Parameter, array: np.ndarray) -> str:
    """Check that a variable does not make the output of a model independent of the image.

    Args:
        row: Row of the parameter table.
        array: The variable.

    Returns:
        What is wrong with a variable that leaves some of the model usable, or an empty string.

    Raises:
        InvalidTensorError: The variable makes all features of the model constant, or is no variance.
    """
    if row.path.endswith("/var") and array.min() < 0:
        raise InvalidTensorError("a variance must be >= 0")
    is_zero = not array.any()
    is_scale = row.role == "scale" or (row.role == "norm" and row.path.endswith("/scale"))
    is_kernel = row.path.endswith("/kernel")
    if is_zero and row.layer != "block" and row.role in ("kernel", "norm") and (is_scale or is_kernel):
        raise InvalidTensorError("all zeros, so that the features do not depend on the image")
    if row.role == "classifier" and is_kernel and (array == array[:, :1]).all() and (is_zero or array.shape[1] > 1):
        values = "all zeros" if is_zero else "the same for all classes"
        return f"{values}, so that the predicted class does not depend on the image"
    if is_kernel and (array == array.flat[0]).all():
        return "all zeros" if is_zero else "all values are equal"
    return "all zeros" if is_zero and is_scale else ""


def check_unexpected(names: Iterable[str], problems: Sequence[Problem]) -> list[Problem]:
    """Return a problem for each unexpected name, with the nearest name that was not found.

    Args:
        names: Names that the model does not have.
        problems: Other problems, including the names that were not found.
    """
    missing = [name for name, problem in problems if problem == NOT_FOUND]
    names, unexpected = sorted(names), list[Problem]()
    for name in names:
        # The comparison of many names with many others takes minutes.
        near = difflib.get_close_matches(name, missing, n=1) if len(names) * len(missing) <= MAX_COMPARISONS else []
        unexpected.append((name, UNEXPECTED + (f" (did you mean {near[0]}?)" if near else "")))
    return unexpected


def summarize(problems: Iterable[Problem]) -> str:
    """Return all problems in one line. A problem that occurs in several blocks is listed once, with their numbers."""
    return shorten([f"{name}: {problem}" for name, problem in merge_blocks(problems)], "; ")


def summarize_names(names: Iterable[str]) -> str:
    """Return names in one line. A name that occurs in several blocks is listed once, with their numbers."""
    return shorten([name for name, _ in merge_blocks((name, "") for name in names)])


def shorten(entries: Sequence[str], separator: str = ", ") -> str:
    """Return entries in one line, without the end of long entries and of a long list."""
    rest = len(entries) - MAX_ENTRIES
    listed = [each if len(each) <= MAX_LENGTH else f"{each[:MAX_LENGTH]}..." for each in entries[:MAX_ENTRIES]]
    return separator.join([*listed, *([f"and {rest} more"] if rest > 0 else [])])


def merge_blocks(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems with those that differ only in their block number merged."""
    # A control character as the placeholder of the block number, because messages never contain one.
    placeholder, block = "\0", re.compile(r"(blocks[._](?:\d+\.(?=\d))?|encoderblock_|layers?\.)(\d{1,9})(?!\d)")
    numbers: dict[Problem, list[int]] = {}
    for name, problem in sorted(set(problems)):
        match = block.search(name)
        if match:
            other = block.search(problem)
            is_own = other is not None and other[2] == match[2]
            template = block.sub(rf"\1{placeholder}", problem) if is_own else problem
            key = (block.sub(rf"\1{placeholder}", name, count=1), template)
            numbers.setdefault(key, []).append(int(match[2]))
        else:
            numbers[name, problem] = []
    merged: list[Problem] = []
    for (name, problem), blocks in numbers.items():
        label = _format_numbers(blocks) if blocks else placeholder
        merged.append((name.replace(placeholder, label), problem.replace(placeholder, label)))
    return merged


def _format_numbers(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    ordered = sorted(numbers)
    is_range = ordered == list(range(ordered[0], ordered[-1] + 1))
    return "{" + (f"{ordered[0]}-{ordered[-1]}" if is_range else ",".join(map(str, ordered))) + "}"
