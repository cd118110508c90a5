"""Saliency-driven merging with deferral (SAD-TM-DM, CVPR 2026).

Let `a_i` be the attention of the class token to patch token `i`, averaged over heads, and `o_i` an optional saliency of
its patch that is computed once. Both are normalized to sum to one over the patch tokens:

`m = alpha * a + (1 - alpha) * o`.

The tokens of lowest `m` leave. Each joins the kept token `i` with the most similar features (cosine), and a kept token
becomes the mean of its tokens weighted by `m`: `t = (m_i t_i + m_j t_j) / (m_i + m_j)`. Sizes are added.

The paper takes `o` from the pixels, which a reducer does not see. Here `o_i` is the distance of the embedded patch from
the mean of the up to eight embedded patches around it, which is our choice, and `alpha=1` leaves it out. Deferral is
the schedule family `"deferred"`, the default of this method.

Written from the formulas; no code was ported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32

from tcvit_jax.errors import check_range
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.division import scale_to_one
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import SCORE_MEAN
from tcvit_jax.reducers.matches import FEATURES
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.reducers.scores import class_attention
from tcvit_jax.tokens import Tokens


def contrast(x: Float[Array, "B N0 D"], grid: tuple[int, int]) -> Float32[Array, "B N0"]:
    """Return the distance of each patch from the mean of the patches around it, `[B, N0]`; 0 without such patches.

    Args:
        x: `[B, N0, D]` embedded patches in raster order.
        grid: `(height, width)` of the patch grid.
    """
    x = jax.lax.stop_gradient(x).astype(jnp.float32).reshape(x.shape[0], *grid, x.shape[2])
    height, width = grid

    def window_sum(values: Float32[Array, "B height width D"]) -> Float32[Array, "B height width D"]:
        rows = jnp.pad(values, ((0, 0), (1, 1), (0, 0), (0, 0)))
        rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
        columns = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)))
        return columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]

    count = window_sum(jnp.ones((1, height, width, 1), jnp.float32)) - 1
    mean = (window_sum(x) - x) / jnp.maximum(count, 1)
    distance = jnp.sqrt(((x - mean) ** 2).sum(-1, keepdims=True))
    return jnp.where(count > 0, distance, 0).reshape(x.shape[0], height * width)


@dataclass(frozen=True, repr=False)
class SaliencyMerging(Reducer):
    """Merging of the least salient tokens into the most similar ones, weighted by saliency.

    Attributes:
        alpha: Weight of class attention, in [0, 1]; the saliency of the embedded patches gets the rest. 1 uses class
            attention alone, 0 needs no class token.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "deferred"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {"alpha": (0.75, 0.5)}
    CLASS_TOKEN_ADVICE: ClassVar[str] = "set alpha=0.0"

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        check_range("alpha", self.alpha, 0, 1, hint="1.0 is class attention only, 0.0 saliency only")

    def prepare_saliency(self, tokens: Tokens, grid: tuple[int, int]) -> Float32[Array, "B N0"] | None:
        """Return the saliency `[B, N0]` of the embedded patches, or None if it has no weight."""
        return contrast(tokens.patches, grid) if self.alpha < 1 else None

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return `m` of each patch token, `[B, N]`, >= 0.

        A token has the saliency of its original patch. A token fused from removed tokens alone, in combinations with
        other fusions, has that of patch 0.
        """
        score = jnp.zeros(tokens.origin.shape, jnp.float32)
        if self.alpha > 0:
            score += self.alpha * scale_to_one(class_attention(tokens, signals))
        if self.alpha < 1:
            saliency = take_rows(tokens.state, jnp.maximum(tokens.origin, 0))
            score += (1 - self.alpha) * scale_to_one(saliency)
        return score

    @property
    def parts(self) -> Parts:
        """Class attention and saliency, cosine of features, mean weighted by the score."""
        has_attention = self.alpha > 0
        score = Score(
            self.rank,
            ("class_row",) if has_attention else (),
            needs_class_token=has_attention,
            prepare=self.prepare_saliency,
        )
        return Parts(score, FEATURES, SCORE_MEAN)
