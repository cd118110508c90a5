"""What can be wrong with tensors, and how all of it is said in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# The name of a tensor or variable, and what is wrong with it.
Problem = tuple[str, str]


def of_names(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[Problem]]:
    """Names as the rules have them, to those of the file; two for one are a problem."""
    names: dict[str, str] = {}
    problems = []
    for known, name in pairs:
        if known in names:
            problems.append((name, f"is there twice, also as {names[known]}"))
        names[known] = name
    return names, problems


def of_values(names: Sequence[str], tensors: Sequence[np.ndarray]) -> list[Problem]:
    """Those that are not of real numbers, or hold some that float32 cannot."""
    problems = []
    for name, tensor in zip(names, tensors, strict=True):
        if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
            problems.append((name, f"has dtype {tensor.dtype.name}, which is not one of weights"))
            continue
        with np.errstate(over="ignore"):
            finite = np.isfinite(tensor.astype(np.float32, copy=False)).all()
        if not finite:
            problems.append((name, "holds values that are not finite"))
    return problems


def of_shapes(
    names: Sequence[str], shapes: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]
) -> list[Problem]:
    """Those of another shape than the model's."""
    return [
        (name, f"has shape {tuple(shape)}, the model's is {tuple(wanted)}")
        for name, shape, wanted in zip(names, shapes, expected, strict=True)
        if tuple(shape) != tuple(wanted)
    ]


def of_dtypes(dtypes: Mapping[str, str]) -> list[Problem]:
    """A file has one dtype; a tensor that differs has been tampered with, or rounded by mistake."""
    most = max(set(dtypes.values()), key=list(dtypes.values()).count, default="")
    return [(name, f"has dtype {dtype}, and most have {most}") for name, dtype in dtypes.items() if dtype != most]


def of_unread(names: Iterable[str], problems: Sequence[Problem]) -> list[Problem]:
    """Those that nobody asked for, each with the missing one that it may have been meant to be."""
    missing, found = [name for name, what in problems if what == "is missing"], []
    for name in sorted(names):
        near = difflib.get_close_matches(name, missing, n=1)
        found.append((name, "has no place in the model" + (f", which lacks {near[0]}" if near else "")))
    return found


def listed(problems: Iterable[Problem]) -> str:
    """All of them in one line; what is the same in several blocks is said once, with their numbers."""
    # A control character, which no name keeps in a message, stands for the number of the block.
    blank, block = "\0", re.compile(r"(?<=blocks[._])\d+|(?<=encoderblock_)\d+")
    numbers: dict[Problem, list[int]] = {}
    for name, what in sorted(set(problems)):
        found = block.search(name)
        if found:
            other = block.search(what)
            same = what if not other or other[0] != found[0] else block.sub(blank, what)
            numbers.setdefault((block.sub(blank, name), same), []).append(int(found[0]))
        else:
            numbers[name, what] = []
    said = (
        f"{name} {what}".replace(blank, _span(of)) if of else f"{name} {what}" for (name, what), of in numbers.items()
    )
    return "; ".join(said)


def _span(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    ordered = sorted(numbers)
    whole = ordered == list(range(ordered[0], ordered[-1] + 1))
    return "{" + (f"{ordered[0]}-{ordered[-1]}" if whole else ",".join(map(str, ordered))) + "}"
