"""The three exchangeable parts of a method: a score, a match, a fusion.

A block that removes tokens asks the score which ones stay, the match how alike each removed token and each kept one
are, and the fusion what becomes of the removed ones. Every method is three of these; `Cross` combines those of
different methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.ops.attention import Signals
from tcvit_jax.tokens import Plan, Tokens

Removal: TypeAlias = Literal["drop", "propagate", "merge"]


@dataclass(frozen=True)
class BlockContext:
    """Where a plan is made, for counting its multiply-adds: all static.

    Attributes:
        patches: patch tokens that enter.
        keep: how many of them stay.
        prefix: protected tokens in front.
        heads, width: of the model.
        block, depth: the index of the block, and how many there are.
    """

    patches: int
    keep: int
    prefix: int
    heads: int
    width: int
    block: int
    depth: int

    @property
    def tokens(self) -> int:
        """With prefix."""
        return self.patches + self.prefix

    @property
    def removed(self) -> int:
        """Patch tokens that leave."""
        return self.patches - self.keep


def _none(context: BlockContext) -> int:
    return 0


def _no_macs(patches: int, width: int) -> int:
    return 0


def _any_model(patches: int) -> None:
    pass


def _any_schedule(removed: Sequence[int]) -> None:
    pass


def _no_state(tokens: Tokens, grid: tuple[int, int]) -> Any:
    return None


def _same_state(tokens: Tokens, plan: Plan) -> Any:
    return tokens.state


def _all_but_one(patches: int, prefix: int) -> int:
    return patches - 1


@dataclass(frozen=True)
class Score:
    """Which patch tokens stay.

    Attributes:
        rank: from tokens, signals and the number to keep to a score `[B, N]` float32; the higher stays, and of equal
            ones the lower index.
        signals: which statistics of attention it reads, names out of `ops.attention.SIGNALS`.
        macs: its multiply-adds for one image in one block.
        needs_class_token: whether it reads the attention of the class token.
        is_bipartite: tokens of score infinity stay whatever happens, and they alone receive removed ones.
        max_removable: how many of so many patches, behind so many prefix tokens, it can remove at once.
        prepare: its state, computed once per image from the embedded tokens and their `(height, width)` grid. `rank`
            finds it in `tokens.state`.
        update_state: its state after a plan, from the tokens before.
        prepare_macs: of `prepare`, from patches and width.
    """

    rank: Callable[[Tokens, Signals, int], Float[Array, "B N"]]
    signals: tuple[str, ...] = ()
    macs: Callable[[BlockContext], int] = _none
    needs_class_token: bool = False
    is_bipartite: bool = False
    max_removable: Callable[[int, int], int] = _all_but_one
    prepare: Callable[[Tokens, tuple[int, int]], Any] = _no_state
    update_state: Callable[[Tokens, Plan], Any] = _same_state
    prepare_macs: Callable[[int, int], int] = _no_macs


@dataclass(frozen=True)
class Match:
    """How alike removed and kept tokens are.

    Attributes:
        similarity: from tokens, signals, `kept [B, K]` and `removed [B, R]` to `[B, R, K]` float32, higher for more.
        check: raises `InputError` for a model of so many patches.
        signals, macs, prepare, follow, prepare_macs: as of a score.
    """

    similarity: Callable[[Tokens, Signals, Int[Array, "B K"], Int[Array, "B R"]], Float[Array, "B R K"]]
    signals: tuple[str, ...] = ()
    macs: Callable[[BlockContext], int] = _none
    check: Callable[[int], None] = _any_model
    prepare: Callable[[Tokens, tuple[int, int]], Any] = _no_state
    update_state: Callable[[Tokens, Plan], Any] = _same_state
    prepare_macs: Callable[[int, int], int] = _no_macs


@dataclass(frozen=True)
class FusionInputs:
    """What a fusion plans from.

    Attributes:
        tokens, signals: of the block.
        score: `[B, N]`.
        kept: `[B, K]` int32, ascending rows among the patch tokens.
        removed: `[B, R]` int32, ascending.
        match: `[B, R, K]`; None for a fusion that reads none. -inf where a kept token must not receive.
    """

    tokens: Tokens
    signals: Signals
    score: Float[Array, "B N"]
    kept: Int[Array, "B K"]
    removed: Int[Array, "B R"]
    match: Float[Array, "B R K"] | None


@dataclass(frozen=True)
class Fusion:
    """What becomes of removed tokens.

    Attributes:
        fuse: from a `FusionInputs` to a plan.
        removal: `"drop"`: they leave nothing behind. `"propagate"`: parts of them are added to others, more or less
            than the whole. `"merge"`: all of their size passes on, to tokens that become a mean of what they stand
            for.
        needs_match: whether it reads the match.
        extra_tokens: how many tokens it adds, fused of removed ones alone.
        is_soft: whether it splits the whole of a removed token among several, so that it takes them all to restore it.
        has_padding: whether some of the kept tokens only fill the fixed width (see `Plan.valid`).
        signals: as of a score.
        macs: its multiply-adds, with those of `ops.plans.apply`, for one image in one block.
        needs_class_token: as of a score.
        check: raises `InputError` for a model from whose blocks so many tokens leave.
    """

    fuse: Callable[[FusionInputs], Plan]
    removal: Removal
    needs_match: bool = True
    extra_tokens: int = 0
    is_soft: bool = False
    has_padding: bool = False
    signals: tuple[str, ...] = ()
    macs: Callable[[BlockContext], int] = _none
    needs_class_token: bool = False
    check: Callable[[Sequence[int]], None] = _any_schedule


@dataclass(frozen=True)
class Parts:
    """A method; `match` is None for a fusion that reads none."""

    score: Score
    match: Match | None
    fusion: Fusion
