"""MCTF: multi-criteria token fusion (Lee et al., CVPR 2024, arXiv 2403.10030).

The score of fusing two tokens is the product of three criteria,
`((cos_ij + 1) / 2)^(1/ts) * (u_i u_j)^(1/ti) * (z_i z_j)^(1/tz)`: the similarity of keys, the unimportance `u` (the
inverse of the received attention, divided by its maximum) and the smallness `z` (the inverse of the size, divided by
its maximum). Tokens are assigned alternately to two halves, as in ToMe. First, the `r // 2` best pairs fuse tokens of
the first half into the second half. Then the remaining `r - r // 2` removals fuse tokens of the second half, together
with what they have received, into the remaining tokens of the first half. A fused token is the mean weighted by
received attention times size.

The paper's one-step-ahead attention, which fuses by the attention of the next layer, is not implemented: it would
compute the attention of every layer twice. Written from the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from tcvit_jax.errors import check_range
from tcvit_jax.ops import matching, plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import one_hot_rows, take_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import average_macs
from tcvit_jax.reducers.parts import Fusion, FusionInputs, Parts, Score
from tcvit_jax.reducers.scores import received_attention
from tcvit_jax.reducers.tome import start_positions, update_positions
from tcvit_jax.tokens import Plan, Tokens


def max_removable_both_ways(patches: int, prefix: int) -> int:
    """Return the number of patch tokens that both steps can remove: one token of the first half must remain."""
    return max(0, 2 * (patches // 2) - 1)


def best_pairs(
    pair_score: Float[Array, "B N N"], sources: Bool[Array, "B N"], targets: Bool[Array, "B N"], count: int
) -> tuple[Bool[Array, "B N"], Int[Array, "B N"]]:
    """Return the `count` sources with the highest pair score, and the best target of each token.

    Args:
        pair_score: `[B, N, N]`, >= 0.
        sources: `[B, N]` bool, which tokens may be fused into a target.
        targets: `[B, N]` bool, which tokens may receive a source.
        count: Number of pairs; static.

    Returns:
        Which tokens are fused, `[B, N]` bool, and the best target of each token, `[B, N]` int32.
    """
    target_score = jnp.where(targets[:, None, :], pair_score, -1)
    best = jnp.where(sources, target_score.max(-1), -jnp.inf)
    # Select exactly `count` sources regardless of rounding. A token too many would be removed without a target.
    rows, _ = split_by_score(best, count)
    is_fused = one_hot_rows(rows, best.shape[1], bool).any(1)
    return is_fused, target_score.argmax(-1).astype(jnp.int32)


@dataclass(frozen=True, repr=False)
class MCTF(Reducer):
    """Multi-criteria token fusion: bidirectional bipartite matching by similarity, received attention and size.

    Attributes:
        similarity: Temperature `ts` of the similarity. All temperatures are in [0.01, 1e6]. The larger a temperature,
            the weaker its criterion.
        importance: Temperature `ti` of the unimportance.
        size: Temperature `tz` of the smallness.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "similarity": (0.5, 2.0),
        "importance": (5.0,),
        "size": (10.0,),
    }

    similarity: float = 1.0
    importance: float = 20.0
    size: float = 40.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        for name in ("similarity", "importance", "size"):
            hint = "the larger the temperature, the weaker its criterion"
            check_range(name, getattr(self, name), 0.01, 1e6, hint=hint)

    def pair_score(self, tokens: Tokens, signals: Signals) -> Float[Array, "B N N"]:
        """Return the product of the criteria for each pair of patch tokens, `[B, N, N]`."""
        keys = matching.patch_keys(tokens, signals)
        importance = jnp.maximum(jax.lax.stop_gradient(received_attention(tokens, signals)), 1e-12)
        score = jnp.maximum((matching.cosine(keys, keys) + 1) / 2, 0) ** (1 / self.similarity)
        for value, temperature in ((importance, self.importance), (tokens.size, self.size)):
            inverse = value.min(-1, keepdims=True) / value
            score *= (inverse[:, :, None] * inverse[:, None, :]) ** (1 / temperature)
        return score

    def targets(self, tokens: Tokens, signals: Signals, remove: int) -> tuple[Bool[Array, "B N"], Int[Array, "B N"]]:
        """Return which patch tokens are removed, `[B, N]` bool, and the final target of each of them, `[B, N]` int32.

        Args:
            tokens: Tokens whose state is their positions in the order of the method.
            signals: Attention statistics of the block.
            remove: Number of tokens to remove; static.
        """
        score, first = self.pair_score(tokens, signals), matching.first_half(tokens.state, tokens.prefix)
        first_removed, second_target = best_pairs(score, first, ~first, remove // 2)
        second_removed, first_target = best_pairs(score, ~first, first & ~first_removed, remove - remove // 2)
        index = jnp.broadcast_to(jnp.arange(score.shape[1], dtype=jnp.int32), first.shape)
        # A token of the first half moves on with its target if that target is removed in the second step.
        final = jnp.where(second_removed, first_target, index)
        return first_removed | second_removed, jnp.where(first_removed, take_rows(final, second_target), final)

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return 1 for kept tokens and `-1 - target` for removed tokens, `[B, N]`; `target` is a row."""
        is_removed, target = self.targets(tokens, signals, tokens.origin.shape[1] - keep)
        return jnp.where(is_removed, -1.0 - target.astype(jnp.float32), 1.0)

    def fuse(self, inputs: FusionInputs) -> Plan:
        """Return the plan that averages tokens weighted by received attention times size."""
        target = -1.0 - take_rows(inputs.score, inputs.removed)
        share = (target[:, None, :] == inputs.kept[:, :, None].astype(jnp.float32)).astype(jnp.float32)
        mass = jax.lax.stop_gradient(received_attention(inputs.tokens, inputs.signals)) * inputs.tokens.size
        return plans.average(inputs.kept, inputs.removed, share, mass)

    @property
    def parts(self) -> Parts:
        """Bidirectional pairs, whose score encodes the target, and a weighted mean."""
        score = Score(
            self.rank,
            ("keys", "received"),
            macs=lambda context: context.patches**2 * (context.width // context.heads),
            max_removable=max_removable_both_ways,
            prepare=start_positions,
            update_state=update_positions,
        )
        fusion = Fusion(self.fuse, "merge", needs_match=False, signals=("received",), macs=average_macs)
        return Parts(score, None, fusion)
