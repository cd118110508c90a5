"""Ward-ToMe: bipartite merging by Ward's criterion, the core of ATM (arXiv 2505.15160).

Tokens are assigned alternately to two halves, as in ToMe. Let `s` be the sizes of the patch tokens and `k` their keys,
averaged over heads. Merging token `i` of the first half into token `j` of the second costs

`cost_ij = s_i s_j / (s_i + s_j) * (1 - cos(k_i, k_j))`,

which bounds the error of the merge. Each token of the first half is paired with the token of least cost. The `r` pairs
of least cost merge into their mean weighted by size. Large tokens therefore merge later than in ToMe.

Written from the formula; no code was ported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int

from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import HARD
from tcvit_jax.reducers.matches import KEYS
from tcvit_jax.reducers.parts import Parts
from tcvit_jax.reducers.tome import BIPARTITE
from tcvit_jax.tokens import Tokens


def ward_cost(
    keys: Float32[Array, "B I d"],
    size: Float32[Array, "B I"],
    other_keys: Float32[Array, "B J d"],
    other_size: Float32[Array, "B J"],
) -> Float32[Array, "B I J"]:
    """Return the cost of merging each token with each other token, `[B, I, J]`; it is at least 0.

    Args:
        keys: `[B, I, d]`.
        size: `[B, I]`.
        other_keys: `[B, J, d]`.
        other_size: `[B, J]`.
    """
    # Rounding can make the cosine larger than 1, and a negative cost would prefer large tokens.
    dissimilarity = jnp.maximum(1 - matching.cosine(keys, other_keys), 0)
    total = size[:, :, None] + other_size[:, None, :]
    return size[:, :, None] * other_size[:, None, :] / jnp.where(total > 0, total, 1) * dissimilarity


def _rank(tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
    first = matching.first_half(tokens.state, tokens.prefix)
    keys = matching.patch_keys(tokens, signals)
    return matching.bipartite_score(-ward_cost(keys, tokens.size, keys, tokens.size), first, ~first)


def _similarity(
    tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
) -> Float[Array, "B R K"]:
    keys = matching.patch_keys(tokens, signals)
    sources, targets = ((take_rows(keys, rows), take_rows(tokens.size, rows)) for rows in (removed, kept))
    return 1 / (1 + ward_cost(*sources, *targets))


# The halves and the products are those of ToMe.
WARD_SCORE = replace(BIPARTITE, rank=_rank)
# Positive, as soft fusion needs, and largest for the token of least cost.
WARD_MATCH = replace(KEYS, similarity=_similarity)


@dataclass(frozen=True, repr=False)
class WardToMe(Reducer):
    """Bipartite matching of keys by Ward's criterion.

    Attributes:
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    @property
    def parts(self) -> Parts:
        """Bipartite score and match by cost, mean weighted by size."""
        return Parts(WARD_SCORE, WARD_MATCH, HARD)
