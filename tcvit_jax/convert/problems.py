"""Problems with named tensors, and their summary in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# The name of a tensor or variable, and its problem.
Problem = tuple[str, str]

NOT_FOUND = "not found"


def map_names(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[Problem]]:
    """Map canonical names to names in the file.

    Args:
        pairs: Canonical name and name in the file of each tensor.

    Returns:
        The mapping, and a problem for every canonical name that occurs more than once.
    """
    names: dict[str, str] = {}
    problems = []
    for canonical_name, name in pairs:
        if canonical_name in names:
            problems.append((name, f"duplicate of {names[canonical_name]}"))
        names[canonical_name] = name
    return names, problems


def check_values(names: Sequence[str], tensors: Sequence[np.ndarray]) -> list[Problem]:
    """Return a problem for each tensor that is not floating-point or not finite in float32."""
    problems = []
    for name, tensor in zip(names, tensors, strict=True):
        if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
            problems.append((name, f"expected a floating-point dtype, got {tensor.dtype.name}"))
            continue
        with np.errstate(over="ignore"):
            finite = np.isfinite(tensor.astype(np.float32, copy=False)).all()
        if not finite:
            problems.append((name, "must be finite in float32"))
    return problems


def check_shapes(
    names: Sequence[str], shapes: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]
) -> list[Problem]:
    """Return a problem for each shape that differs from the expected one."""
    return [
        (name, f"expected shape {tuple(expected_shape)}, got {tuple(shape)}")
        for name, shape, expected_shape in zip(names, shapes, expected, strict=True)
        if tuple(shape) != tuple(expected_shape)
    ]


def check_dtypes(dtypes: Mapping[str, str]) -> list[Problem]:
    """Return a problem for each tensor whose dtype differs from the most common dtype of the file.

    A file has one dtype. A tensor with another one was changed or rounded by mistake.
    """
    common = max(set(dtypes.values()), key=list(dtypes.values()).count, default="")
    return [
        (name, f"expected dtype {common} of the other tensors, got {dtype}")
        for name, dtype in dtypes.items()
        if dtype != common
    ]


def check_unexpected(names: Iterable[str], problems: Sequence[Problem]) -> list[Problem]:
    """Return a problem for each unexpected name, with the nearest name that was not found.

    Args:
        names: Names that the model does not have.
        problems: Other problems, including the names that were not found.
    """
    missing = [name for name, problem in problems if problem == NOT_FOUND]
    unexpected = []
    for name in sorted(names):
        near = difflib.get_close_matches(name, missing, n=1)
        unexpected.append((name, "unexpected" + (f" (did you mean {near[0]}?)" if near else "")))
    return unexpected


def summarize(problems: Iterable[Problem]) -> str:
    """Return all problems in one line. A problem that occurs in several blocks is listed once, with their numbers."""
    # A control character as the placeholder of the block number, because messages never contain one.
    placeholder, block = "\0", re.compile(r"(?<=blocks[._])\d+|(?<=encoderblock_)\d+")
    numbers: dict[Problem, list[int]] = {}
    for name, problem in sorted(set(problems)):
        match = block.search(name)
        if match:
            other = block.search(problem)
            is_own = other is not None and other[0] == match[0]
            template = block.sub(placeholder, problem) if is_own else problem
            numbers.setdefault((block.sub(placeholder, name), template), []).append(int(match[0]))
        else:
            numbers[name, problem] = []
    lines = (
        f"{name}: {problem}".replace(placeholder, _format_numbers(blocks)) if blocks else f"{name}: {problem}"
        for (name, problem), blocks in numbers.items()
    )
    return "; ".join(lines)


def _format_numbers(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    ordered = sorted(numbers)
    is_range = ordered == list(range(ordered[0], ordered[-1] + 1))
    return "{" + (f"{ordered[0]}-{ordered[-1]}" if is_range else ",".join(map(str, ordered))) + "}"
