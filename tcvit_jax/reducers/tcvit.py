"""TC-ViT: connectivity-based token condensation (ICLR 2024 submission, OpenReview 8vGXHjuCiq).

The attention map averaged over heads, `W` (rows are queries), is a walk over the tokens; `C_K = W^K` is the
connectivity of order K. Each block, with `s` the sizes and prefix tokens apart,

1. scores every patch token by how much the other patches reach it, `c_i = sum_j C_K[j, i]`, and by its dominance,
   the attention of the class token `d_i = W[cls, i]`; both scaled to sum to one, `balance * c + (1 - balance) * d`;
2. keeps the highest; and
3. fuses each removed token q into the kept token it reaches most, `argmax_p C_K[q, p]`, by their mean weighted by
   size, `y_p = (s_p x_p + sum_q s_q x_q) / (s_p + sum_q s_q)`.

The paper's equations are not public. Where its abstract and reviews leave a choice open, this is the plainest one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tcvit_jax.errors import InputError
from tcvit_jax.ops import plans, walks
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_block, take_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Plan, Tokens


@dataclass(frozen=True)
class TCViT(Reducer):
    """Connectivity-based token condensation.

    Attributes:
        order: K, the length of the walks that score tokens.
        match_order: the length of the walks that find a removed token's destination; None for `order`. Long walks
            forget where they started, so that a large one sends every token to the same place.
        balance: the weight of connectivity; dominance gets the rest. A model without a class token has no
            dominance, and needs 1.
        proportional_attention: see `Reducer`.
    """

    signals: ClassVar[tuple[str, ...]] = ("map",)
    order: int = 2
    match_order: int | None = None
    balance: float = 0.5
    proportional_attention: bool = True

    def __post_init__(self) -> None:
        """Refuse walks without a step and weights that are none."""
        for name in ("order", "match_order"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value} is no walk: the shortest has 1 step")
        if not 0 <= self.balance <= 1:
            raise InputError(f"balance={self.balance} is not between 0 (dominance alone) and 1 (connectivity alone)")

    @property
    def needs_class_token(self) -> bool:
        """Dominance does."""
        return self.balance < 1

    def score(self, tokens: Tokens, walk: Array) -> Array:
        """The representative score `[B, N]` of each patch token, from `W [B, T, T]`."""
        prefix = tokens.prefix
        start = jnp.broadcast_to(jnp.arange(walk.shape[-1]) >= prefix, walk.shape[:2]).astype(walk.dtype)
        connectivity = walks.reached(walk, start, self.order)[:, prefix:]
        score = self.balance * _to_sum_one(connectivity)
        if self.balance < 1:
            dominance = walk[:, 0, prefix:]
            score += (1 - self.balance) * _to_sum_one(dominance)
        return score

    def plan(self, tokens: Tokens, signals: Signals, keep: int) -> Plan:
        """Keep the highest scores; fuse each other token into the kept one it is most connected to."""
        walk, prefix = signals.map, tokens.prefix
        assert walk is not None
        kept, removed = split_by_score(self.score(tokens, walk), keep)
        rows = walks.walk_rows(walk, take_rows(walk, removed + prefix), self.match_order or self.order)
        row = jnp.broadcast_to(jnp.arange(removed.shape[1]), removed.shape)
        match = take_block(rows, row, kept + prefix).argmax(-1)
        share = jax.nn.one_hot(match, keep, axis=1, dtype=jnp.float32)
        return plans.averaging(kept, removed, share, tokens.size)

    def plan_macs(self, patches: int, keep: int, prefix: int, heads: int) -> int:
        """The mean over heads, K vector products for the score, K - 1 thin ones for the match."""
        tokens, removed = patches + prefix, patches - keep
        steps = self.order + ((self.match_order or self.order) - 1) * removed
        return (heads + steps) * tokens**2


def _to_sum_one(score: Array) -> Array:
    """Scores `[B, N]` scaled to sum to one; all zero, as when attention stays on the class token, they stay zero."""
    total = score.sum(-1, keepdims=True)
    return score / jnp.where(total > 0, total, 1)
