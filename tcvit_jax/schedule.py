"""Reduction schedules: the number of patch tokens to remove in each block.

A schedule is a number, a list, a keep rate or a budget of multiply-adds. It is resolved once, when a model is created,
into one static Python int per block.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

from tcvit_jax.errors import InputError, as_integer, check_range, invalid, out_of_range, unknown

# Removed patch tokens per block.
Removed = tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    """The blocks for which a schedule is resolved.

    Attributes:
        patches: Number of patch tokens of the embedded image.
        depth: Number of blocks.
        cost: Function from the numbers of removed tokens per block to the multiply-adds of one image.
        extra_tokens: Number of fused tokens that each block with removals adds to its kept tokens.
        max_removable: Function from the number of patch tokens to how many of them the method can remove in one block.
        lower_count: Function from the number of patch tokens and a number of removals to the largest number, at most
            this one, that the method can remove in one block; the number itself for a method that can remove any.
        family: The schedule family of the method's paper, one of `SCHEDULE_FAMILIES`.
    """

    patches: int
    depth: int
    cost: Callable[[Removed], int]
    extra_tokens: int = 0
    max_removable: Callable[[int], int] = lambda patches: patches - 1
    lower_count: Callable[[int, int], int] = lambda patches, count: count
    family: str = "constant"

    def clip(
        self,
        desired: Callable[[int, int], int],
        *,
        saves_tokens: bool = True,
        carries_leftover: bool = True,
        check: Callable[[int, int, int], None] | None = None,
    ) -> Removed:
        """Return the desired number of removals per block, limited to what the method can remove.

        Args:
            desired: Function from a block index and the number of patch tokens left to a number of removals. The tokens
                left over by earlier blocks do not count as left.
            saves_tokens: Whether a block that would replace one token by one fused token, which saves nothing, removes
                none.
            carries_leftover: Whether the next block that removes tokens also removes, as far as it can, what a method
                that removes only some numbers of tokens leaves over.
            check: Function that raises an error for a block index, a number of patch tokens left and a desired number
                of removals; None to remove as many as the method can.

        Returns:
            The number of removals of each block.
        """
        least = self.extra_tokens + 1 if saves_tokens else max(self.extra_tokens, 1)
        counts, left, leftover = [], self.patches, 0
        for block in range(self.depth):
            count, desired_count = 0, desired(block, left - leftover)
            if check is not None:
                check(block, left, desired_count)
            if desired_count > 0:
                limit = min(desired_count + leftover, self.max_removable(left))
                count = self.lower_count(left, limit)
                count = count if count >= least else 0
                leftover = limit - self.lower_count(left, limit) if carries_leftover else 0
            counts.append(count)
            left -= count - (self.extra_tokens if count else 0)
        return tuple(counts)

    def allowed_counts(self, left: int) -> tuple[int, ...]:
        """Return the numbers of removals that the method can make in one block with `left` patch tokens, ascending."""
        return tuple(sorted({self.lower_count(left, count) for count in range(self.max_removable(left) + 1)}))


@runtime_checkable
class Schedule(Protocol):
    """Protocol of schedules."""

    def removed(self, stack: Stack) -> Removed:
        """Return the number of patch tokens to remove in each block of `stack`."""
        ...


def _plain(value: Any) -> Any:
    """Return NumPy and JAX arrays and scalars as Python numbers, and lists, arrays and iterators as tuples.

    Strings, sets and mappings are not changed: their elements are not in the order of the blocks.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Set | Mapping):
        # No model has that many blocks, and an iterator may have no end.
        return tuple(_plain(element) for element in itertools.islice(cast("Iterable[Any]", value), 10_000))
    return value


class _PlainFields:
    """Base class of schedules that makes the values of their fields plain, so that equal schedules are equal."""

    def __post_init__(self) -> None:
        """Replace arrays by numbers and tuples."""
        for field in fields(cast(Any, self)):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))


def _as_counts(value: Any) -> Removed:
    """Return one integer per block.

    Raises:
        InputError: `value` is not a sequence of integers.
    """
    if not isinstance(value, tuple):
        raise out_of_range("schedule", value, "an integer, a sequence of one integer per block, or a schedule object")
    return tuple(as_integer("schedule", count) for count in cast("tuple[object, ...]", value))


@dataclass(frozen=True)
class constant(_PlainFields):
    """The same number of removals in every block (GTP's `P`, ToMe's `r`).

    Attributes:
        count: Number of removed tokens per block.
    """

    count: int

    def removed(self, stack: Stack) -> Removed:
        """Return `count` for every block."""
        if as_integer("schedule", self.count) < 0:
            raise out_of_range("schedule", self.count, ">= 0")
        # One token must remain after the last block.
        limit = (stack.patches - 1 + stack.extra_tokens * (stack.depth - 1)) // stack.depth
        if self.count > limit:
            raise out_of_range(
                "schedule",
                self.count,
                f"<= {limit}",
                f"{self.count} tokens in each of {stack.depth} blocks are {self.count * stack.depth} of "
                f"{stack.patches} patch tokens",
            )
        return (self.count,) * stack.depth


@dataclass(frozen=True)
class explicit(_PlainFields):
    """A list with the number of removals of each block.

    Attributes:
        counts: Number of removed tokens of each block: a sequence or an array of integers.
    """

    counts: Removed

    def removed(self, stack: Stack) -> Removed:
        """Return `counts`."""
        return _as_counts(self.counts)


@dataclass(frozen=True)
class at_most(_PlainFields):
    """A list with the largest number of removals of each block, each lowered to a number that the method can remove.

    Attributes:
        counts: Number of tokens of each block: a sequence or an array of integers.
    """

    counts: Removed

    def removed(self, stack: Stack) -> Removed:
        """Return `counts`, lowered where necessary."""
        counts = _as_counts(self.counts)
        if len(counts) != stack.depth:
            raise invalid("at_most", f"expected {stack.depth} numbers, one per block, got {len(counts)}")
        return stack.clip(lambda block, left: counts[block], carries_leftover=False)


@dataclass(frozen=True)
class linear(_PlainFields):
    """A linear schedule with a mean of `count` removals per block (ToMe).

    The first block removes `int(count * (1 - slope))` tokens, the last one `2 * count` minus that number. All numbers
    are rounded down, as in ToMe's code.

    Attributes:
        count: Mean number of removed tokens per block, before rounding.
        slope: From -1, which removes most tokens in early blocks, to 1, which removes most in late blocks.
    """

    count: int
    slope: float

    def removed(self, stack: Stack) -> Removed:
        """Return the numbers on the line, rounded down."""
        check_range("linear slope", self.slope, -1, 1, hint="0 removes the same number in every block")
        if as_integer("schedule", self.count) < 0:
            raise out_of_range("schedule", self.count, ">= 0")
        first = int(self.count * (1 - self.slope))
        step = 2 * (self.count - first) / max(stack.depth - 1, 1)
        return _resolve_exactly(self, stack, lambda block, left: int(first + step * block))


@dataclass(frozen=True)
class keep_rate(_PlainFields):
    """The fraction of patch tokens that every block keeps.

    The number of kept tokens is rounded up, as in the papers. A method that fuses removed tokens into an extra token
    adds that token to the kept ones, and the next block counts it as a token.

    Attributes:
        rate: Fraction in (0, 1], or a sequence or an array with one fraction per block.
    """

    rate: float | tuple[float, ...]

    def removed(self, stack: Stack) -> Removed:
        """Return the removals that keep `rate` of the tokens of each block."""
        rates = self.rate if isinstance(self.rate, tuple) else (self.rate,) * stack.depth
        if len(rates) != stack.depth:
            raise invalid("keep_rate", f"expected {stack.depth} rates, one per block, got {len(rates)}")
        for rate in rates:
            _check_rate("keep_rate", rate)
        return _resolve_exactly(self, stack, lambda block, left: left - max(1, _round_up(rates[block] * left)))


@dataclass(frozen=True)
class stages(_PlainFields):
    """The fraction of patch tokens that some blocks keep; the others remove nothing (EViT, Top-K).

    The number of kept tokens is rounded up.

    Attributes:
        blocks: Indices of the blocks that remove tokens, or the index of a single one. EViT uses 3, 6 and 9 of 12
            blocks.
        rate: Fraction to keep, in (0, 1]. The fused token of an earlier stage counts as a token and may be fused again.
    """

    blocks: tuple[int, ...] | int
    rate: float

    def removed(self, stack: Stack) -> Removed:
        """Return the removals that keep `rate` of the tokens of each stage."""
        _check_rate("stages rate", self.rate)
        blocks = self.blocks if isinstance(self.blocks, tuple) else (self.blocks,)
        for block in blocks:
            if not 0 <= as_integer("stages block", block) < stack.depth:
                raise out_of_range(
                    "stages block", block, f"in [0, {stack.depth - 1}]", f"the model has {stack.depth} blocks"
                )
        return _resolve_exactly(
            self, stack, lambda block, left: left - _round_up(self.rate * left) if block in blocks else 0
        )


def _resolve_exactly(schedule: Schedule, stack: Stack, desired: Callable[[int, int], int]) -> Removed:
    """Return the desired removals of each block.

    Raises:
        InputError: The method cannot remove that many tokens in one block.
    """
    check = partial(_check_max_removable, schedule, stack)
    return stack.clip(desired, saves_tokens=False, check=check)


def _check_max_removable(schedule: object, stack: Stack, block: int, left: int, count: int) -> None:
    """Raise `InputError` if the method cannot remove `count` of the `left` tokens; the message names `schedule`."""
    if count > stack.max_removable(left):
        raise _impossible(schedule, block, left, count, f"at most {stack.max_removable(left)}")


def _impossible(schedule: object, block: int, left: int, count: int, allowed: str) -> InputError:
    return invalid(
        str(schedule), f"removes {count} of {left} patch tokens in block {block}", f"the method can remove {allowed}"
    )


def _check_rate(name: str, rate: float) -> None:
    check_range(name, rate, 0, 1, excludes_low=True, hint="1.0 keeps all tokens")


def _round_up(value: float) -> int:
    """Return `value` rounded up; `0.28 * 25`, in floating point 7.000000000000001, is 7."""
    return math.ceil(round(value, 9))


@dataclass(frozen=True)
class deferred(_PlainFields):
    """No removal in the first blocks, then a number of tokens that falls linearly (deferred merging, CVPR 2026).

    With blocks counted from 1, `N (1 - (l - tau) rate)` of the `N` embedded patch tokens are kept by block `l > tau`,
    rounded up and at least one. Where the method cannot remove that many tokens in one block, it removes as many as it
    can, and the next blocks remove the others.

    Attributes:
        tau: Number of first blocks that remove nothing, at least 0 and less than the depth.
        rate: Fraction of the embedded patch tokens that each of the other blocks removes, in [0, 1].
    """

    tau: int
    rate: float

    def removed(self, stack: Stack) -> Removed:
        """Return the removals that follow the line."""
        if not 0 <= as_integer("deferred tau", self.tau) < stack.depth:
            raise out_of_range(
                "deferred tau", self.tau, f"in [0, {stack.depth - 1}]", f"the model has {stack.depth} blocks"
            )
        check_range("deferred rate", self.rate, 0, 1, hint="0 removes nothing")
        return stack.clip(_defer(stack, self.tau, self.rate), saves_tokens=False)


def _defer(stack: Stack, tau: int, rate: float) -> Callable[[int, int], int]:
    """Return desired removals of `deferred`."""

    def desired(block: int, left: int) -> int:
        if block < tau:
            return 0
        return left - max(1, _round_up(stack.patches * (1 - (block + 1 - tau) * rate)))

    return desired


def stage_blocks(depth: int) -> tuple[int, ...]:
    """Return the blocks at one, two and three quarters of the depth: 3, 6 and 9 of 12.

    Args:
        depth: Number of blocks, at least 1.

    Raises:
        InputError: `depth` is not a positive integer.
    """
    depth = as_integer("depth", depth)
    if depth < 1:
        raise out_of_range("depth", depth, ">= 1")
    return tuple(dict.fromkeys(depth * quarter // 4 for quarter in (1, 2, 3)))


# Schedule families by name. Each maps a stack and a strength in [0, 1] to removals per block: 0 removes nothing, 1 as
# many tokens as the method can.
SCHEDULE_FAMILIES: dict[str, Callable[[Stack, float], Removed]] = {
    "constant": lambda stack, strength: stack.clip(_spread_evenly(stack, strength)),
    "keep_rate": lambda stack, strength: stack.clip(
        lambda block, left: left - max(1, _round_up((1 - strength) * left)),
    ),
    "stages": lambda stack, strength: stack.clip(
        lambda block, left: (
            left - max(1, _round_up((1 - strength) * left)) if block in stage_blocks(stack.depth) else 0
        ),
    ),
    "deferred": lambda stack, strength: stack.clip(_defer(stack, stack.depth // 4, strength)),
}


def _spread_evenly(stack: Stack, strength: float) -> Callable[[int, int], int]:
    """Return desired removals that differ by at most one between blocks."""
    total = round(strength * (stack.patches - 1 + stack.extra_tokens * (stack.depth - 1)))
    edges = [total * block // stack.depth for block in range(stack.depth + 1)]
    counts = [after - before for before, after in itertools.pairwise(edges)]
    return lambda block, left: counts[block]


@dataclass(frozen=True)
class budget(_PlainFields):
    """The smallest number of removals that meets a budget of multiply-adds per image.

    The cost includes the matrix products of the method itself and, as in papers, the patch tokens of the last block
    even if the head does not read them. A budget above the cost of the dense model removes nothing. Where the family
    asks for more removals than the method allows in one block (half of the tokens for ToMe), the block removes as many
    tokens as the method allows.

    Attributes:
        gmacs: The budget in 1e9 multiply-adds. The cost never exceeds it; the difference is at most about the cost of
            one token in one block.
        family: How removals are spread over the blocks: `"constant"`, as evenly as integers allow; `"keep_rate"`, the
            same fraction in every block, so that blocks with more tokens remove more; `"stages"`, the same fraction at
            three blocks; `"deferred"`, the same number in every block after the first quarter of the blocks, which
            remove nothing; `"method"`, the one of these that the method's paper uses.
    """

    gmacs: float
    family: str = "constant"

    def removed(self, stack: Stack) -> Removed:
        """Return the removals whose cost is closest to the budget without exceeding it.

        Bisection finds the weakest strength of the family that fits. The strength right below it, with a few more
        removals in late blocks, may be closer to the budget.
        """
        if isinstance(self.gmacs, bool) or not isinstance(self.gmacs, numbers.Real) or not self.gmacs > 0:
            raise out_of_range("budget gmacs", self.gmacs, "a number > 0", "its unit is 1e9 multiply-adds")
        family = stack.family if self.family == "method" else self.family
        if not isinstance(family, str) or family not in SCHEDULE_FAMILIES:
            raise unknown("schedule family", self.family, (*SCHEDULE_FAMILIES, "method"))
        limit, spread = self.gmacs * 1e9, SCHEDULE_FAMILIES[family]
        if stack.cost((0,) * stack.depth) <= limit:
            return (0,) * stack.depth
        if stack.cost(spread(stack, 1.0)) > limit:
            raise invalid(
                f"budget gmacs={self.gmacs:g}",
                f"must be >= {stack.cost(spread(stack, 1.0)) / 1e9:.4g}",
                "this is the cost with the fewest patch tokens",
            )
        weak, strong = 0.0, 1.0
        while strong - weak > 1e-6:
            middle = (weak + strong) / 2
            weak, strong = (middle, strong) if stack.cost(spread(stack, middle)) > limit else (weak, middle)
        candidates = [spread(stack, strong), *_remove_more(spread(stack, weak), stack, limit)]
        return max(candidates, key=stack.cost)


def _next_count(stack: Stack, counts: Removed, block: int) -> int:
    """Return the smallest number of removals above `counts[block]` that the method can make in this block."""
    left = stack.patches - sum(counts[:block]) + stack.extra_tokens * sum(map(bool, counts[:block]))
    count = counts[block]
    more = (other for other in range(count + 1, stack.max_removable(left) + 1))
    return next((other for other in more if stack.lower_count(left, other) == other), count)


def _remove_more(counts: Removed, stack: Stack, limit: float) -> list[Removed]:
    """Remove the fewest tokens more, from the last block with removals to the first, until the cost is within `limit`.

    Args:
        counts: Removals per block whose cost exceeds `limit`.
        stack: The blocks.
        limit: Multiply-adds per image.

    Returns:
        The first removals that fit, in a list; an empty list if none do.
    """
    blocks = [block for block, count in enumerate(counts) if count]
    for block in reversed(blocks):
        more = list(counts)
        more[block] = _next_count(stack, counts, block)
        counts = stack.clip(lambda index, left, more=tuple(more): more[index])
        if stack.cost(counts) <= limit:
            return [counts]
    return []


def _as_schedule(value: object) -> Schedule:
    """Return the schedule object that `value` stands for."""
    # A class has the method as well, but its instance was not made.
    if isinstance(value, Schedule) and not isinstance(value, type):
        return value
    value = _plain(value)
    return constant(cast(int, value)) if isinstance(value, numbers.Number) else explicit(cast(Removed, value))


def resolve(schedule: int | Iterable[int] | Schedule, stack: Stack) -> Removed:
    """Return the number of patch tokens to remove in each block.

    Args:
        schedule: An int for all blocks, a sequence or an array with one int per block, or a schedule object of this
            module.
        stack: The blocks.

    Returns:
        One int >= 0 per block. At least one token remains after every block.

    Raises:
        InputError: The schedule does not fit the model or the method.
    """
    removed = _as_counts(_plain(_as_schedule(schedule).removed(stack)))
    if len(removed) != stack.depth:
        raise invalid("schedule", f"expected {stack.depth} numbers, one per block, got {len(removed)}")
    left = stack.patches
    for block, count in enumerate(removed):
        name = f"schedule[{block}]"
        if count < 0:
            raise out_of_range(name, count, ">= 0")
        if 0 < count < stack.extra_tokens:
            raise out_of_range(
                name, count, f"0 or >= {stack.extra_tokens}", f"the method adds {stack.extra_tokens} fused tokens"
            )
        if count >= left:
            raise out_of_range(
                name, count, f"<= {left - 1}", f"one of the {left} patch tokens in block {block} must remain"
            )
        _check_max_removable("schedule", stack, block, left, count)
        if stack.lower_count(left, count) != count:
            allowed = ", ".join(map(str, stack.allowed_counts(left)))
            raise _impossible("schedule", block, left, count, f"one of {allowed}")
        left -= count - (stack.extra_tokens if count else 0)
    return removed
