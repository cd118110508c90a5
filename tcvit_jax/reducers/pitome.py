"""PiToMe: spectrum-preserving token merging (Tran et al., NeurIPS 2024, arXiv 2405.16148).

Let `S` be the cosines of the patch tokens' keys, averaged over heads. The energy of a token is high if it has many
similar tokens: `E_i = mean_j ELU(S_ij - m)`, with a margin `m = 0.75 (1 - block / depth)`. Tokens are sorted by energy
in descending order.

- First half of the blocks: all tokens are assigned alternately to two halves, in that order. The `r` tokens of the
  first half with the highest similarity to a token of the second half merge into it.
- Second half of the blocks: only the `2 r` tokens of the highest energy are assigned alternately to two halves. All
  tokens of the first half merge into the most similar token of the second half; all other tokens are protected.

Means are weighted by size. The official code is under a non-commercial license: nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import check_range
from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.ranking import ranks
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import HARD
from tcvit_jax.reducers.matches import KEYS
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.reducers.tome import max_removable_half
from tcvit_jax.tokens import Tokens


@dataclass(frozen=True, repr=False)
class PiToMe(Reducer):
    """Bipartite merging of the tokens of highest energy.

    Attributes:
        margin: Margin `m` of the first block, in [-1, 1]. It decreases linearly towards 0 with the depth.
        alpha: Scale of the ELU for negative inputs, in (0, 100].
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "keep_rate"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"margin": (0.5, 0.9)}

    margin: float = 0.75
    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        check_range("margin", self.margin, -1, 1, hint="it is compared with cosines")
        check_range("alpha", self.alpha, 0, 100, excludes_low=True)

    def energy(self, similarity: Float[Array, "B N N"], block: int, depth: int) -> Float[Array, "B N"]:
        """Return the energy of each patch token, `[B, N]`.

        Args:
            similarity: `[B, N, N]` cosines of keys.
            block: Index of the block.
            depth: Number of blocks.
        """
        margin = self.margin * (1 - block / depth)
        return jax.nn.elu(similarity - margin, self.alpha).mean(-1)

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return the bipartite score `[B, N]` of the tokens that may merge (see `ops.matching.bipartite_score`)."""
        keys = matching.patch_keys(tokens, signals)
        similarity = matching.cosine(keys, keys)
        position = ranks(self.energy(similarity, tokens.block, tokens.depth))
        candidate_count = position.shape[1]
        if tokens.block >= tokens.depth / 2:
            candidate_count = 2 * (candidate_count - keep)
        first, second = position % 2 == 0, position % 2 == 1
        is_candidate = position < candidate_count
        return matching.bipartite_score(similarity, first & is_candidate, second & is_candidate)

    @property
    def parts(self) -> Parts:
        """Bipartite score by energy, cosine of keys, mean weighted by size."""
        score = Score(
            self.rank,
            ("keys",),
            macs=lambda context: context.patches**2 * (context.width // context.heads),
            is_bipartite=True,
            max_removable=max_removable_half,
        )
        return Parts(score, KEYS, HARD)
