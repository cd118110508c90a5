"""The three exchangeable parts of a reducer: score, match and fusion.

In each block that removes tokens, the score selects the tokens to keep, the match measures the similarity between
removed and kept tokens, and the fusion combines the removed tokens with the kept ones. `Cross` combines parts of
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
    """Static shapes of one block, used to count multiply-adds.

    Attributes:
        patches: Number of patch tokens that enter the block.
        keep: Number of patch tokens to keep.
        prefix: Number of prefix tokens.
        heads: Number of attention heads.
        width: Width of the model.
        block: Index of the block.
        depth: Number of blocks.
        mlp: Multiply-adds of the MLP for one token.
    """

    patches: int
    keep: int
    prefix: int
    heads: int
    width: int
    block: int
    depth: int
    mlp: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens that enter the block, including the prefix."""
        return self.patches + self.prefix

    @property
    def removed(self) -> int:
        """Number of removed patch tokens."""
        return self.patches - self.keep


def _no_block_macs(context: BlockContext) -> int:
    return 0


def _no_prepare_macs(patches: int, width: int) -> int:
    return 0


def _any_model(patches: int) -> None:
    pass


def _any_schedule(removed: Sequence[int]) -> None:
    pass


def _any_count(patches: int, count: int, grid: tuple[int, int]) -> int:
    return count


def _no_state(tokens: Tokens, grid: tuple[int, int]) -> Any:
    return None


def _same_state(tokens: Tokens, plan: Plan) -> Any:
    return tokens.state


def _all_but_one(patches: int, prefix: int) -> int:
    return patches - 1


@dataclass(frozen=True)
class Score:
    """The part that selects which patch tokens to keep.

    Attributes:
        rank: Function from tokens, signals and the number of tokens to keep to a score `[B, N]` float32. The highest
            scores are kept; of equal scores, the lower index is kept.
        signals: Statistics that `rank` reads, names from `ops.attention.SIGNALS` and `BLOCK_SIGNALS`.
        macs: Function from a `BlockContext` to the multiply-adds of `rank` for one image.
        needs_class_token: Whether `rank` reads the attention of the class token.
        is_bipartite: Whether only tokens of infinite score receive removed tokens. These tokens are always kept.
        max_removable: Function from the numbers of patch and prefix tokens to how many patch tokens can be removed in
            one block.
        lower_count: Function from a number of patch tokens, a number of removals, and the `(height, width)` grid of the
            embedded patches to the largest number of removals, at most this one, that is possible in one block.
        prepare: Function from the embedded tokens and their `(height, width)` grid to the state of the score, called
            once per forward pass. `rank` reads the state from `tokens.state`.
        update_state: Function from the tokens before a plan and the plan to the state after it.
        prepare_macs: Function from the number of patches and the width to the multiply-adds of `prepare` for one image.
    """

    rank: Callable[[Tokens, Signals, int], Float[Array, "B N"]]
    signals: tuple[str, ...] = ()
    macs: Callable[[BlockContext], int] = _no_block_macs
    needs_class_token: bool = False
    is_bipartite: bool = False
    max_removable: Callable[[int, int], int] = _all_but_one
    lower_count: Callable[[int, int, tuple[int, int]], int] = _any_count
    prepare: Callable[[Tokens, tuple[int, int]], Any] = _no_state
    update_state: Callable[[Tokens, Plan], Any] = _same_state
    prepare_macs: Callable[[int, int], int] = _no_prepare_macs


@dataclass(frozen=True)
class Match:
    """The part that measures the similarity between removed and kept tokens.

    Attributes:
        similarity: Function from tokens, signals, `kept [B, K]` and `removed [B, R]` to the similarity `[B, R, K]`
            float32 of each removed and each kept token.
        signals: Statistics that `similarity` reads, names as in `Score`.
        macs: Function from a `BlockContext` to the multiply-adds of `similarity` for one image.
        check: Function that raises `InputError` if the match cannot be used with this number of patches.
        prepare: State of the match, as in `Score`.
        update_state: State after a plan, as in `Score`.
        prepare_macs: Multiply-adds of `prepare`, as in `Score`.
    """

    similarity: Callable[[Tokens, Signals, Int[Array, "B K"], Int[Array, "B R"]], Float[Array, "B R K"]]
    signals: tuple[str, ...] = ()
    macs: Callable[[BlockContext], int] = _no_block_macs
    check: Callable[[int], None] = _any_model
    prepare: Callable[[Tokens, tuple[int, int]], Any] = _no_state
    update_state: Callable[[Tokens, Plan], Any] = _same_state
    prepare_macs: Callable[[int, int], int] = _no_prepare_macs


@dataclass(frozen=True)
class FusionInputs:
    """The inputs of a fusion.

    Attributes:
        tokens: Tokens of the block.
        signals: Attention statistics of the block.
        score: `[B, N]`, the scores of the patch tokens.
        kept: `[B, K]` int32, rows of the kept patch tokens in ascending order.
        removed: `[B, R]` int32, rows of the removed patch tokens in ascending order.
        match: `[B, R, K]`, the similarity of removed and kept tokens; -inf where a kept token must not receive the
            removed one. None if the fusion does not need a match.
    """

    tokens: Tokens
    signals: Signals
    score: Float[Array, "B N"]
    kept: Int[Array, "B K"]
    removed: Int[Array, "B R"]
    match: Float[Array, "B R K"] | None


@dataclass(frozen=True)
class Fusion:
    """The part that plans how removed tokens are combined with kept ones.

    Attributes:
        fuse: Function from `FusionInputs` to a plan.
        removal: How tokens are removed. `"drop"`: without any contribution to the survivors. `"propagate"`: weighted
            features are added to the survivors; the shares of a removed token need not sum to 1. `"merge"`: the full
            size of each removed token passes to the survivors, most often means of the tokens that they represent.
        needs_match: Whether `fuse` reads the match.
        extra_tokens: Number of additional tokens, each fused from removed tokens alone.
        is_soft: Whether each removed token is split among several survivors, all of which are needed to restore it.
        has_padding: Whether some kept tokens are padding (see `Plan.valid`).
        signals: Statistics that `fuse` reads, names as in `Score`.
        macs: Function from a `BlockContext` to the multiply-adds of `fuse` and `ops.plans.apply` for one image.
        needs_class_token: Whether `fuse` reads the attention of the class token.
        check: Function that raises `InputError` if the fusion cannot be used with these numbers of removed tokens per
            block.
    """

    fuse: Callable[[FusionInputs], Plan]
    removal: Removal
    needs_match: bool = True
    extra_tokens: int = 0
    is_soft: bool = False
    has_padding: bool = False
    signals: tuple[str, ...] = ()
    macs: Callable[[BlockContext], int] = _no_block_macs
    needs_class_token: bool = False
    check: Callable[[Sequence[int]], None] = _any_schedule


@dataclass(frozen=True)
class Parts:
    """The parts of a reducer.

    Attributes:
        score: Selects the tokens to keep.
        match: Measures the similarity of removed and kept tokens. None if the fusion does not need a match.
        fusion: Plans how removed tokens are combined with kept ones.
    """

    score: Score
    match: Match | None
    fusion: Fusion
