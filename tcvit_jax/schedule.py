"""How many patch tokens leave each block: from a number, a list, a rate, or a budget of multiply-adds.

A schedule is resolved once, when a model is made, into one static Python int per block.
"""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tcvit_jax.errors import InputError, unknown, whole

# Multiply-adds of one image for a given number of removed tokens per block.
Cost = Callable[[tuple[int, ...]], int]


@runtime_checkable
class Schedule(Protocol):
    """Anything that says how many patch tokens leave each of `depth` blocks, out of `patches` at the start."""

    def removed(self, patches: int, depth: int, cost: Cost, extra: int) -> tuple[int, ...]:
        """Removed tokens per block, `depth` ints; `extra` are added by each block that removes any."""
        ...


@dataclass(frozen=True)
class constant:
    """The same number leaves every block (GTP's `P`, ToMe's `r`)."""

    count: int

    def removed(self, patches: int, depth: int, cost: Cost, extra: int) -> tuple[int, ...]:
        """`count`, `depth` times."""
        # The last block needs one more than it removes.
        most = (patches - 1 + extra * (depth - 1)) // depth
        if self.count > most:
            raise InputError(
                f"schedule={self.count} removes {self.count * depth} of {patches} patch tokens in {depth} blocks: "
                f"at most {most} per block leave one"
            )
        return (self.count,) * depth


@dataclass(frozen=True)
class explicit:
    """A number for every block."""

    counts: tuple[int, ...]

    def removed(self, patches: int, depth: int, cost: Cost, extra: int) -> tuple[int, ...]:
        """The list itself."""
        return self.counts


@dataclass(frozen=True)
class keep_rate:
    """The same part of the patch tokens stays in every block, rounded to whole tokens (halves to even), at least one.

    A method that fuses removed tokens into one more has that one besides.
    """

    rate: float

    def removed(self, patches: int, depth: int, cost: Cost, extra: int) -> tuple[int, ...]:
        """What the rate takes from each block's tokens."""
        if not isinstance(self.rate, numbers.Real) or not 0 < self.rate <= 1:
            raise InputError(f"keep_rate={self.rate!r} is not in (0, 1]: 1.0 keeps all")
        counts, left = [], patches
        for _ in range(depth):
            count = left - max(1, round(self.rate * left))
            # One token exchanged for one that is fused of it alone would be no reduction.
            counts.append(count if count > extra else 0)
            left -= counts[-1] - (extra if counts[-1] else 0)
        return tuple(counts)


@dataclass(frozen=True)
class budget:
    """The fewest tokens whose removal brings an image down to `gmacs` (1e9 MACs).

    The method's own products count too, and those of the last block that nobody reads, as in papers. A budget above
    the dense model's cost removes nothing.

    Attributes:
        gmacs: the budget.
        shape: how removals spread: `"constant"`, as evenly over the blocks as whole tokens allow, or `"keep_rate"`,
            the same part of each block's tokens, which removes more where there are more.
    """

    gmacs: float
    shape: str = "constant"

    def removed(self, patches: int, depth: int, cost: Cost, extra: int) -> tuple[int, ...]:
        """The first spread that fits, in the order of how much they remove."""
        if not isinstance(self.gmacs, numbers.Real):
            raise InputError(f"budget gmacs={self.gmacs!r} is no number of 1e9 multiply-adds, such as 3.4")
        if self.shape == "constant":
            spreads = [_spread(total, depth) for total in range(patches + extra * (depth - 1))]
        elif self.shape == "keep_rate":
            rates = [keep_rate(rate / 1000).removed(patches, depth, cost, extra) for rate in range(1000, 0, -1)]
            spreads = list(dict.fromkeys(rates))
        else:
            raise unknown("shape of a budget:", self.shape, ("constant", "keep_rate"))
        # A token exchanged for one that is fused of it alone would be no reduction.
        spreads = [spread for spread in spreads if all(count == 0 or count > extra for count in spread)]
        for spread in spreads:
            if cost(spread) <= self.gmacs * 1e9:
                return spread
        least = min(map(cost, spreads)) / 1e9
        raise InputError(
            f"budget gmacs={self.gmacs:g} cannot be met: the least is {least:.3g}, with as few patch tokens as can be"
        )


def _spread(total: int, depth: int) -> tuple[int, ...]:
    """`total` over `depth` blocks, as evenly as whole tokens allow."""
    edges = [total * block // depth for block in range(depth + 1)]
    return tuple(after - before for before, after in itertools.pairwise(edges))


def _as_schedule(value: int | Sequence[int] | Schedule) -> Schedule:
    if isinstance(value, Iterable):
        return explicit(tuple(whole("schedule", count) for count in value))
    return value if isinstance(value, Schedule) else constant(whole("schedule", value))


def resolve(
    schedule: int | Sequence[int] | Schedule, patches: int, depth: int, cost: Cost, extra: int = 0
) -> tuple[int, ...]:
    """Removed patch tokens per block, checked: none negative, and at least one token left.

    Args:
        schedule: an int (for every block), a sequence (for each), or one of this module's objects.
        patches: patch tokens at the start.
        depth: blocks.
        cost: multiply-adds of one image, for `budget`.
        extra: tokens that each block which removes any adds to those it keeps.

    Raises:
        InputError: it does not fit the model.
    """
    removed = tuple(whole("schedule", count) for count in _as_schedule(schedule).removed(patches, depth, cost, extra))
    if len(removed) != depth:
        raise InputError(f"schedule lists {len(removed)} blocks and the model has {depth}")
    left = patches
    for block, count in enumerate(removed):
        if count < 0:
            raise InputError(f"schedule removes {count} tokens in block {block}: use 0 or more")
        if 0 < count <= extra:
            raise InputError(
                f"schedule removes {count} token in block {block} and adds {extra} fused of it: use 0 or {extra + 1}"
            )
        if count >= left:
            raise InputError(
                f"schedule removes {count} tokens in block {block}, which has {left}: at most {left - 1} leave one"
            )
        left -= count - (extra if count else 0)
    return removed
