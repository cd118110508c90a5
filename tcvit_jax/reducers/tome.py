"""ToMe: token merging by bipartite soft matching (Bolya et al., ICLR 2023, arXiv 2210.09461).

Tokens are assigned alternately to two halves, starting with the class token in the first half. Let `m_j` be the keys
averaged over heads. Each patch token `i` of the first half is paired with its most similar token of the second half,
`argmax_j cos(m_i, m_j)`. The `r` pairs with the highest cosine merge into their mean weighted by size, and later
attention adds `log size` to the scores of a key. For the alternation in the next block, the remaining tokens of the
first half come before those of the second half.

The official code is CC BY-NC 4.0: nothing of it is used. Written from the paper's formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import HARD
from tcvit_jax.reducers.matches import KEYS
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.tokens import Plan, Tokens


def start_positions(tokens: Tokens, grid: tuple[int, int]) -> Int[Array, "B N"]:
    """Return the initial position of each patch token in the order of the method, `[B, N]` int32: raster order."""
    return tokens.origin


def update_positions(tokens: Tokens, plan: Plan) -> Int[Array, "B S"]:
    """Return the positions after a plan, `[B, S]` int32.

    The order is: survivors of the first half, survivors of the second half, fused tokens.

    Args:
        tokens: Tokens before the plan, whose state is their positions.
        plan: The plan.
    """
    position = tokens.state
    sort_key = jnp.where(matching.first_half(position, tokens.prefix), position, position + position.shape[1])
    sort_key = take_rows(sort_key, plan.kept)
    rank = (sort_key[:, None, :] < sort_key[:, :, None]).sum(-1, dtype=jnp.int32)
    fused = jnp.arange(plan.kept.shape[1], plan.survivors, dtype=jnp.int32)
    return jnp.concatenate([rank, jnp.broadcast_to(fused, (rank.shape[0], fused.size))], axis=1)


def max_removable_half(patches: int, prefix: int) -> int:
    """Return how many patch tokens can be removed: at most one half, which merges into the other."""
    return patches // 2


def _rank(tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
    first = matching.first_half(tokens.state, tokens.prefix)
    keys = matching.patch_keys(tokens, signals)
    return matching.bipartite_score(matching.cosine(keys, keys), first, ~first)


BIPARTITE = Score(
    _rank,
    ("keys",),
    macs=lambda context: context.patches**2 * (context.width // context.heads),
    is_bipartite=True,
    max_removable=max_removable_half,
    prepare=start_positions,
    update_state=update_positions,
)


@dataclass(frozen=True, repr=False)
class ToMe(Reducer):
    """Bipartite soft matching of keys.

    Attributes:
        proportional_attention: See `Reducer`. The paper turns it off for weights trained without class labels (MAE).
        attention_keep: See `Reducer`.
    """

    @property
    def parts(self) -> Parts:
        """Bipartite score, cosine of keys, mean weighted by size."""
        return Parts(BIPARTITE, KEYS, HARD)
