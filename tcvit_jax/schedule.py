"""How many patch tokens leave each block: from a number, a list, a rate, or a budget of multiply-adds.

A schedule is resolved once, when a model is made, into one static Python int per block.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tcvit_jax.errors import InputError, as_integer, unknown

Removed = tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """The blocks that a schedule has to fit.

    Attributes:
        patches: patch tokens at the start.
        depth: blocks.
        cost: multiply-adds of one image for a number of removed tokens per block.
        extra_tokens: tokens that each block which removes any adds to those it keeps.
        max_removable: how many of so many patch tokens can leave one block, by the method.
        family: how the method's paper spreads removals, one of `SCHEDULE_FAMILIES`.
    """

    patches: int
    depth: int
    cost: Callable[[Removed], int]
    extra_tokens: int = 0
    max_removable: Callable[[int], int] = lambda patches: patches - 1
    family: str = "constant"

    def fitted(self, wanted: Callable[[int, int], int]) -> Removed:
        """The numbers `wanted(block, left)`, each lowered to what can leave that block.

        One token exchanged for one that is fused of it alone would be no reduction: then none leaves.
        """
        counts, left = [], self.patches
        for block in range(self.depth):
            count = min(wanted(block, left), self.max_removable(left))
            counts.append(count if count > self.extra_tokens else 0)
            left -= counts[-1] - (self.extra_tokens if counts[-1] else 0)
        return tuple(counts)


@runtime_checkable
class Schedule(Protocol):
    """Anything that says how many patch tokens leave each block of a stack."""

    def removed(self, stack: Stack) -> Removed:
        """One int per block."""
        ...


@dataclass(frozen=True)
class constant:
    """The same number leaves every block (GTP's `P`, ToMe's `r`)."""

    count: int

    def removed(self, stack: Stack) -> Removed:
        """`count`, `depth` times."""
        as_integer("schedule", self.count)
        # The last block needs one more than it removes.
        most = (stack.patches - 1 + stack.extra_tokens * (stack.depth - 1)) // stack.depth
        if self.count > most:
            raise InputError(
                f"schedule={self.count} removes {self.count * stack.depth} of {stack.patches} patch tokens in "
                f"{stack.depth} blocks: at most {most} per block leave one"
            )
        return (self.count,) * stack.depth


@dataclass(frozen=True)
class explicit:
    """A number for every block."""

    counts: Removed

    def removed(self, stack: Stack) -> Removed:
        """The list itself."""
        return self.counts


@dataclass(frozen=True)
class linear:
    """From `int(count * (1 - slope))` in the first block by equal steps to twice `count` less that in the last (ToMe).

    Every number is rounded down, as in ToMe's code.

    Attributes:
        count: of the middle.
        slope: from -1, most tokens leave early, to 1, most leave late.
    """

    count: int
    slope: float

    def removed(self, stack: Stack) -> Removed:
        """Whole numbers on the line."""
        if not isinstance(self.slope, numbers.Real) or not -1 <= self.slope <= 1:
            raise InputError(f"linear slope={self.slope!r} is not in [-1, 1]: 0 is constant")
        first = int(as_integer("schedule", self.count) * (1 - self.slope))
        step = 2 * (self.count - first) / max(stack.depth - 1, 1)
        return tuple(int(first + step * block) for block in range(stack.depth))


@dataclass(frozen=True)
class keep_rate:
    """The same part of the patch tokens stays in every block, rounded to whole tokens (halves to even), at least one.

    A method that fuses removed tokens into one more has that one besides.

    Attributes:
        rate: in (0, 1], or one for each block.
    """

    rate: float | tuple[float, ...]

    def removed(self, stack: Stack) -> Removed:
        """What the rate takes from each block's tokens."""
        rates = self.rate if isinstance(self.rate, Sequence) else (self.rate,) * stack.depth
        if len(rates) != stack.depth:
            raise InputError(f"keep_rate lists {len(rates)} blocks and the model has {stack.depth}")
        for rate in rates:
            _check_rate("keep_rate", rate)
        return _possible(self, stack, lambda block, left: left - max(1, round(rates[block] * left)))


@dataclass(frozen=True)
class stages:
    """A part of the patch tokens stays in some blocks, rounded up; nothing leaves the others (EViT, Top-K).

    Attributes:
        blocks: their indices; those of EViT in 12 blocks are 3, 6, 9.
        rate: the part that stays, in (0, 1]; a fused token of an earlier stage counts among the tokens.
    """

    blocks: tuple[int, ...]
    rate: float

    def removed(self, stack: Stack) -> Removed:
        """What the rate takes from the tokens of those blocks."""
        _check_rate("stages rate", self.rate)
        for block in self.blocks:
            if not 0 <= as_integer("stages block", block) < stack.depth:
                raise InputError(f"stages block {block} is not one of the model's: 0 to {stack.depth - 1}")
        return _possible(
            self, stack, lambda block, left: left - _rounded_up(self.rate * left) if block in self.blocks else 0
        )


def _possible(schedule: Schedule, stack: Stack, wanted: Callable[[int, int], int]) -> Removed:
    """The numbers `wanted(block, left)`, if the method can remove as many.

    Raises:
        InputError: it cannot.
    """

    def checked(block: int, left: int) -> int:
        count = wanted(block, left)
        _check_most(schedule, stack, block, left, count)
        return count

    return stack.fitted(checked)


def _check_most(schedule: object, stack: Stack, block: int, left: int, count: int) -> None:
    """Raise `InputError`, which names the schedule, where the method cannot remove `count` of the tokens left."""
    if count > stack.max_removable(left):
        raise InputError(
            f"{schedule} removes {count} tokens in block {block}, which has {left}: the method can remove at most "
            f"{stack.max_removable(left)} of them"
        )


def _check_rate(name: str, rate: float) -> None:
    if not isinstance(rate, numbers.Real) or not 0 < rate <= 1:
        raise InputError(f"{name}={rate!r} is not in (0, 1]: 1.0 keeps all")


def _rounded_up(value: float) -> int:
    """To a whole number; 7.000000000000001, which is 0.28 of 25 in floating point, is 7."""
    return math.ceil(round(value, 9))


def thirds(depth: int) -> tuple[int, ...]:
    """The blocks after which a quarter, a half and three quarters of the model have run: 3, 6, 9 of 12."""
    return tuple(dict.fromkeys(depth * quarter // 4 for quarter in (1, 2, 3)))


# What spreads removals at a strength between 0, nothing leaves, and 1, all that can leave.
SCHEDULE_FAMILIES: dict[str, Callable[[Stack, float], Removed]] = {
    "constant": lambda stack, strength: stack.fitted(_even(stack, strength)),
    "keep_rate": lambda stack, strength: stack.fitted(
        lambda block, left: left - max(1, round((1 - strength) * left)),
    ),
    "stages": lambda stack, strength: stack.fitted(
        lambda block, left: left - max(1, _rounded_up((1 - strength) * left)) if block in thirds(stack.depth) else 0,
    ),
}


def _even(stack: Stack, strength: float) -> Callable[[int, int], int]:
    """As many from every block as whole tokens allow."""
    total = round(strength * (stack.patches - 1 + stack.extra_tokens * (stack.depth - 1)))
    edges = [total * block // stack.depth for block in range(stack.depth + 1)]
    counts = [after - before for before, after in itertools.pairwise(edges)]
    return lambda block, left: counts[block]


@dataclass(frozen=True)
class budget:
    """As few tokens as bring an image down to `gmacs` (1e9 MACs).

    The method's own products count too, and those of the last block that nobody reads, as in papers. A budget above
    the dense model's cost removes nothing. Where a method cannot remove as many from a block as the family would (half
    of them is ToMe's most), as many leave as can.

    Attributes:
        gmacs: the budget; it is not exceeded, and missed by as little as one token in one block allows.
        family: how removals spread: `"constant"`, as evenly over the blocks as whole tokens allow; `"keep_rate"`, the
            same part of each block's tokens, which removes more where there are more; `"stages"`, the same part at
            three blocks; `"method"`, whichever of these the method's paper uses.
    """

    gmacs: float
    family: str = "constant"

    def removed(self, stack: Stack) -> Removed:
        """The weakest spread of the family that fits, mended by single tokens of late blocks."""
        if not isinstance(self.gmacs, numbers.Real) or not self.gmacs > 0:
            raise InputError(f"budget gmacs={self.gmacs!r} is no positive number of 1e9 multiply-adds, such as 3.4")
        family = stack.family if self.family == "method" else self.family
        if family not in SCHEDULE_FAMILIES:
            raise unknown("family of a budget:", self.family, (*SCHEDULE_FAMILIES, "method"))
        limit, spread = self.gmacs * 1e9, SCHEDULE_FAMILIES[family]
        if stack.cost((0,) * stack.depth) <= limit:
            return (0,) * stack.depth
        if stack.cost(spread(stack, 1.0)) > limit:
            raise InputError(
                f"budget gmacs={self.gmacs:g} cannot be met: the least is {stack.cost(spread(stack, 1.0)) / 1e9:.3g}, "
                "with as few patch tokens as can be"
            )
        weak, strong = 0.0, 1.0
        while strong - weak > 1e-6:
            middle = (weak + strong) / 2
            weak, strong = (middle, strong) if stack.cost(spread(stack, middle)) > limit else (weak, middle)
        fits = [spread(stack, strong), *_mended(spread(stack, weak), stack, limit)]
        return max(fits, key=stack.cost)


def _mended(counts: Removed, stack: Stack, limit: float) -> list[Removed]:
    """`counts`, too few, with single tokens more of the last blocks that remove any, as soon as they fit the limit."""
    blocks = [block for block, count in enumerate(counts) if count]
    for block in reversed(blocks):
        more = list(counts)
        more[block] += 1
        counts = stack.fitted(lambda index, left, more=tuple(more): more[index])
        if stack.cost(counts) <= limit:
            return [counts]
    return []


def _as_schedule(value: int | Sequence[int] | Schedule) -> Schedule:
    if isinstance(value, Iterable):
        return explicit(tuple(as_integer("schedule", count) for count in value))
    return value if isinstance(value, Schedule) else constant(value)


def resolve(schedule: int | Sequence[int] | Schedule, stack: Stack) -> Removed:
    """Removed patch tokens per block, checked: none negative, at least one token left, no more than the method can.

    Args:
        schedule: an int (for every block), a sequence (for each), or one of this module's objects.
        stack: the blocks.

    Raises:
        InputError: it does not fit the model, or the method.
    """
    removed = tuple(as_integer("schedule", count) for count in _as_schedule(schedule).removed(stack))
    if len(removed) != stack.depth:
        raise InputError(f"schedule lists {len(removed)} blocks and the model has {stack.depth}")
    left = stack.patches
    for block, count in enumerate(removed):
        if count < 0:
            raise InputError(f"schedule removes {count} tokens in block {block}: use 0 or more")
        if 0 < count <= stack.extra_tokens:
            raise InputError(
                f"schedule removes {count} token in block {block} and adds {stack.extra_tokens} fused of it: "
                f"use 0 or {stack.extra_tokens + 1}"
            )
        if count >= left:
            raise InputError(
                f"schedule removes {count} tokens in block {block}, which has {left}: at most {left - 1} leave one"
            )
        _check_most("schedule", stack, block, left, count)
        left -= count - (stack.extra_tokens if count else 0)
    return removed
