"""MCTF: multi-criteria token fusion (Lee et al., CVPR 2024, arXiv 2403.10030).

How well two tokens fuse is the product of three criteria,
`((cos_ij + 1) / 2)^(1/ts) * (u_i u_j)^(1/ti) * (z_i z_j)^(1/tz)`: similarity of keys, unimportance `u` (the inverse of
the attention received, over the largest one) and smallness `z` (the inverse of the size, over the largest one). Tokens
take turns in two first_half, as in ToMe. First the `r // 2` best pairs fuse from the first half into the second; then the
rest of the `r` from the second half into what is left of the first, and take what they have received along. A fused
token is the mean, weighted by attention received times size.

The paper's third trick, fusing by the attention of the layer after, would compute every layer's attention twice: it is
not here. Written from the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from tcvit_jax.errors import InputError
from tcvit_jax.ops import matching, plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import one_hot_rows, take_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import average_macs
from tcvit_jax.reducers.parts import Fusion, FusionInputs, Parts, Score
from tcvit_jax.reducers.scores import received
from tcvit_jax.reducers.tome import start_positions, update_positions
from tcvit_jax.tokens import Plan, Tokens


def max_removable_both_ways(patches: int, prefix: int) -> int:
    """One token of the first half has to be left for those of the second."""
    return max(0, 2 * (patches // 2) - 1)


def best_pairs(
    fit: Float[Array, "B N N"], sources: Bool[Array, "B N"], targets: Bool[Array, "B N"], count: int
) -> tuple[Bool[Array, "B N"], Int[Array, "B N"]]:
    """The `count` best fitting sources, each with its best target.

    Args:
        fit: `[B, N, N]`, not negative.
        sources, targets: bool `[B, N]`, which tokens may fuse, and into which.
        count: static.

    Returns:
        Which tokens fuse, bool `[B, N]`, and into which one, `[B, N]` int32.
    """
    open_to = jnp.where(targets[:, None, :], fit, -1)
    best = jnp.where(sources, open_to.max(-1), -jnp.inf)
    # Exactly `count`, whatever a compiler rounds: one more would leave and go nowhere.
    fuse, _ = split_by_score(best, count)
    fuses = one_hot_rows(fuse, best.shape[1], bool).any(1)
    return fuses, open_to.argmax(-1).astype(jnp.int32)


@dataclass(frozen=True, repr=False)
class MCTF(Reducer):
    """Bidirectional matching by similarity, attention received and size.

    Attributes:
        similarity, importance, size: temperatures of the three criteria; the larger, the less one counts.
        proportional_attention, attention_keep: see `Reducer`.
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
        """Refuse temperatures that are none."""
        super().__post_init__()
        for name in ("similarity", "importance", "size"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)} is no temperature: use a positive number")

    def fit(self, tokens: Tokens, signals: Signals) -> Float[Array, "B N N"]:
        """The product of the criteria, `[B, N, N]`."""
        keys = matching.patch_keys(tokens, signals)
        importance = jnp.maximum(jax.lax.stop_gradient(received(tokens, signals)), 1e-12)
        fit = jnp.maximum((matching.cosine(keys, keys) + 1) / 2, 0) ** (1 / self.similarity)
        for value, temperature in ((importance, self.importance), (tokens.size, self.size)):
            inverse = value.min(-1, keepdims=True) / value
            fit *= (inverse[:, :, None] * inverse[:, None, :]) ** (1 / temperature)
        return fit

    def targets(self, tokens: Tokens, signals: Signals, remove: int) -> tuple[Bool[Array, "B N"], Int[Array, "B N"]]:
        """Which tokens leave, bool `[B, N]`, and into which one each of them goes in the end, `[B, N]`."""
        fit, first = self.fit(tokens, signals), matching.first_half(tokens.state, tokens.prefix)
        there, into_second = best_pairs(fit, first, ~first, remove // 2)
        back, into_first = best_pairs(fit, ~first, first & ~there, remove - remove // 2)
        index = jnp.broadcast_to(jnp.arange(fit.shape[1], dtype=jnp.int32), back.shape)
        after = jnp.where(back, into_first, index)
        return there | back, jnp.where(there, take_rows(after, into_second), after)

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """1 for a token that stays; for one that leaves, -1 less the row that it goes into."""
        leaves, target = self.targets(tokens, signals, tokens.origin.shape[1] - keep)
        return jnp.where(leaves, -1.0 - target, 1.0)

    def fuse(self, inputs: FusionInputs) -> Plan:
        """The mean weighted by attention received and size."""
        target = -1.0 - take_rows(inputs.score, inputs.removed)
        share = (target[:, None, :] == inputs.kept[:, :, None]).astype(jnp.float32)
        mass = jax.lax.stop_gradient(received(inputs.tokens, inputs.signals)) * inputs.tokens.size
        return plans.average(inputs.kept, inputs.removed, share, mass)

    @property
    def parts(self) -> Parts:
        """The pairs, which say where a token goes too, and the mean."""
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
