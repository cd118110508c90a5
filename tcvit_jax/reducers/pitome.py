"""PiToMe: accelerating transformers with spectrum-preserving token merging (Tran et al., NeurIPS 2024, 2405.16148).

With `S` the cosines of keys (averaged over heads) of the patch tokens, a token's energy is high where it has many
look-alikes: `E_i = mean_j ELU(S_ij - m)`, with a margin `m = 0.75 (1 - block / depth)`. Tokens are ordered by energy,
the highest first.

- First half of the blocks: by turns in that order tokens form two first_half; the `r` of the first half that are most
  similar to one of the second merge into it.
- Second half: the `2 r` of the highest energy take turns; all of the first kind merge into the most similar one of the
  second. All others are protected.

Means are weighted with sizes. The official code is under a non-commercial license: nothing of it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import InputError
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
    """Bipartite matching of the tokens with most look-alikes.

    Attributes:
        margin: of the first block; it falls to 0 with the blocks.
        alpha: of the ELU.
        proportional_attention, attention_keep: see `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "keep_rate"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"margin": (0.5, 0.9)}

    margin: float = 0.75
    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Refuse margins that no cosine has, and scales that are none."""
        super().__post_init__()
        if not -1 <= self.margin <= 1:
            raise InputError(f"margin={self.margin} is no cosine, -1 to 1: use 0.75")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"alpha={self.alpha} is not positive: use 1.0")

    def energy(self, similarity: Float[Array, "B N N"], block: int, depth: int) -> Float[Array, "B N"]:
        """`[B, N]` from the cosines `[B, N, N]`."""
        margin = self.margin * (1 - block / depth)
        return jax.nn.elu(similarity - margin, self.alpha).mean(-1)

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Minus the best similarity of those that may merge; see `ops.matching.bipartite_score`."""
        keys = matching.patch_keys(tokens, signals)
        similarity = matching.cosine(keys, keys)
        place = ranks(self.energy(similarity, tokens.block, tokens.depth))
        mergeable = place.shape[1]
        if tokens.block >= tokens.depth / 2:
            mergeable = 2 * (mergeable - keep)
        first, second = place % 2 == 0, place % 2 == 1
        return matching.bipartite_score(similarity, first & (place < mergeable), second & (place < mergeable))

    @property
    def parts(self) -> Parts:
        """Energy, keys, the mean weighted by size."""
        score = Score(
            self.rank,
            ("keys",),
            macs=lambda context: context.patches**2 * (context.width // context.heads),
            is_bipartite=True,
            max_removable=max_removable_half,
        )
        return Parts(score, KEYS, HARD)
