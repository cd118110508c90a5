"""ToMe: token merging by bipartite soft matching (Bolya et al., ICLR 2023, arXiv 2210.09461).

Tokens take turns in two first_half, the class token in the first. With `m_j` the keys averaged over heads, each patch token
`i` of the first half finds its most similar one of the second, `argmax_j cos(m_i, m_j)`; the `r` pairs of the highest
cosine merge, by the mean weighted with sizes, and later attention adds `log size` to the scores of a key. What is left
of the first half stands before the second in the next block's turns.

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
    """The method's own order of the patch tokens, `[B, N]` int32: at first that of the grid."""
    return tokens.origin


def update_positions(tokens: Tokens, plan: Plan) -> Int[Array, "B S"]:
    """The order after a plan, `[B, S]`: the first half's survivors, then the second half, then fused tokens."""
    position = tokens.state
    behind = jnp.where(matching.first_half(position, tokens.prefix), position, position + position.shape[1])
    key = take_rows(behind, plan.kept)
    place = (key[:, None, :] < key[:, :, None]).sum(-1, dtype=jnp.int32)
    fused = jnp.arange(plan.kept.shape[1], plan.survivors, dtype=jnp.int32)
    return jnp.concatenate([place, jnp.broadcast_to(fused, (len(place), fused.size))], axis=1)


def max_removable_half(patches: int, prefix: int) -> int:
    """At most one half merges into the other."""
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
        proportional_attention, attention_keep: see `Reducer`. Off for weights that were trained without class labels
            (MAE), says the paper.
    """

    @property
    def parts(self) -> Parts:
        """Halves, keys, the mean weighted by size."""
        return Parts(BIPARTITE, KEYS, HARD)
