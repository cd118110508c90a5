"""Which flag helps if the tensors of a file do not match a model."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice

from tcvit_jax.convert.formats import MAX_PARTS, Format
from tcvit_jax.convert.problems import UNEXPECTED, Problem

# A search through the names of a damaged file ends after so many.
MAX_NAMES = 5_000
# A hint lists at most so many prefixes or patterns.
MAX_OPTIONS = 6


def selection_hint(
    names: Sequence[str],
    expected: Collection[str],
    heads: Collection[str],
    problems: Sequence[Problem],
    file_format: Format,
    prefix: str = "",
) -> str:
    """Return the hint to select tensors by a prefix, to leave some out, or to replace the classifier.

    Args:
        names: Names in the file.
        expected: Canonical names of the tensors that the model requires.
        heads: Canonical names of classifiers.
        problems: The problems of the conversion.
        file_format: Format of the file.
        prefix: Prefix that was removed from names.

    Returns:
        The hint, or an empty string if no selection helps.
    """
    prefixes = _prefixes(names, frozenset(expected), file_format, prefix)
    if prefixes:
        return prefix_hint(prefixes)
    others = {name: problem for name, problem in problems if name not in heads}
    if (
        prefix
        and problems
        and all(problem.startswith(UNEXPECTED) and not name.startswith(prefix) for name, problem in problems)
    ):
        return prefix_hint([prefix])
    if not all(problem.startswith(UNEXPECTED) for problem in others.values()):
        return ""
    options = ["new_head=True (--new-head) for a new classifier"] if any(name in heads for name, _ in problems) else []
    if others:
        patterns = _patterns(names, others)
        flags = " ".join(f"--ignore {pattern!r}" for pattern in patterns)
        options.append(f"ignore={patterns} ({flags}) to leave tensors out")
    return "use " + " and ".join(options)


def prefix_hint(prefixes: Sequence[str]) -> str:
    """Return the hint to use one of `prefixes`."""
    options = " or ".join(f"prefix={prefix!r} (--prefix {prefix})" for prefix in prefixes[:MAX_OPTIONS])
    return f"use {options} to read only the tensors of the model"


def _prefixes(names: Sequence[str], expected: frozenset[str], file_format: Format, present: str) -> list[str]:
    """Return the prefixes whose removal makes the largest number of names expected, if that is more than `present`."""
    counts = Counter[str]()
    for name in names[:MAX_NAMES]:
        ends = (match.end() for match in islice(re.finditer(r"[./]", name), MAX_PARTS))
        for end in (0, *ends):
            counts[name[:end]] += file_format.is_one_of(name[end:], expected)
    best = max(counts.values(), default=0)
    if best <= counts[present]:
        return []
    return sorted(prefix for prefix, count in counts.items() if count == best)[:MAX_OPTIONS]


def _patterns(names: Sequence[str], unexpected: Collection[str]) -> list[str]:
    """Return shell patterns that match the unexpected names and no others."""
    kept = {_group(name) for name in names if name not in unexpected}
    patterns: list[str] = []
    for name in sorted(unexpected):
        group = _group(name)
        patterns.append(f"{glob.escape(group)}*" if group and group not in kept else glob.escape(name))
    return list(dict.fromkeys(patterns))[:MAX_OPTIONS]


def _group(name: str) -> str:
    """Return the first part of a name, such as `"projector."`, or an empty string for a name with one part."""
    match = re.match(r"[^./]*[./]", name)
    return match[0] if match else ""
