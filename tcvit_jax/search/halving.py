"""Successive halving: all candidates on a few images, and the best of each rung on more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from tcvit_jax.errors import out_of_range

# The number of images of a rung, as a multiple of that of the rung before.
GROWTH = 4

T = TypeVar("T")


def rungs(first: int, images: int) -> tuple[int, ...]:
    """Return the number of images of each rung: `first`, four times as many in each following one, at last `images`.

    Args:
        first: The number of images of the first rung.
        images: The number of images of the last rung.

    Raises:
        InputError: `first` is not in `[2, images]`.
    """
    if not 2 <= first <= images:
        raise out_of_range("--min-images", first, f"in [2, {images}], up to --images")
    counts = [first]
    while counts[-1] * GROWTH < images:
        counts.append(counts[-1] * GROWTH)
    return tuple(counts) if counts[-1] == images else (*counts, images)


def survivors(count: int, eta: int) -> int:
    """Return how many of `count` candidates the next rung measures: a fraction `1 / eta`, rounded up."""
    return math.ceil(count / eta)


def halve(
    candidates: Sequence[T], counts: Sequence[int], eta: int, measure: Callable[[Sequence[T], int], Sequence[float]],
    cost: Callable[[T], float],
) -> list[list[T]]:  # fmt: skip
    """Return the candidates of each rung, best first.

    Args:
        candidates: The candidates. Of equally good ones with equal costs, the first is better.
        counts: The number of images of each rung.
        eta: The fraction of candidates that a rung passes on is `1 / eta`.
        measure: Function from the candidates of a rung and its number of images to their objectives; higher is better.
        cost: Function from a candidate to its cost, which decides between equal objectives; lower is better.
    """
    results: list[list[T]] = []
    remaining = list(candidates)
    for rung, images in enumerate(counts):
        values = measure(remaining, images)
        order = sorted(range(len(remaining)), key=lambda i: (-values[i], cost(remaining[i])))
        # The order of the candidates decides last, whatever the order of the rung before.
        ranked = [remaining[i] for i in order]
        results.append(ranked)
        if rung + 1 < len(counts):
            best = set(order[: survivors(len(order), eta)])
            remaining = [each for i, each in enumerate(remaining) if i in best]
    return results
