"""K-medoids: clusters around tokens of their own (Kaufman and Rousseeuw, 1987; for ViTs Haurum et al., 2023).

Start from the `K` tokens that receive most attention. In turns, every token joins the nearest medoid, by the Euclidean
distance of features, and every cluster takes as its medoid the member with the least sum of distances to the others of
the cluster. What is left is the medoids, as they are.

This is the textbook's form: the comparison suite of Haurum et al. sums distances over all tokens, so that its medoids
are those closest to everything.

Written from the formulas; no code was ported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.errors import InputError
from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import REPRESENT
from tcvit_jax.reducers.matches import NEAREST
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.reducers.scores import received
from tcvit_jax.tokens import Tokens


def improved(distance: Float[Array, "B N N"], medoids: Int[Array, "B K"]) -> Int[Array, "B K"]:
    """The medoids `[B, K]` after one turn, from those before and the distances `[B, N, N]`."""
    patches = distance.shape[1]
    index = jnp.arange(patches)
    is_medoid = (medoids[:, :, None] == index).any(1)
    # Of equal tokens each medoid stays its own: no cluster is empty.
    near = jnp.where(is_medoid[:, None, :], distance, jnp.inf) - jnp.where(index[:, None] == index, 1.0, 0.0)
    mine = near.argmin(-1)
    together = mine[:, :, None] == mine[:, None, :]
    cost = jnp.where(together, distance, 0).sum(-1)
    members = mine[:, None, :] == medoids[:, :, None]
    return jnp.where(members, cost[:, None, :], jnp.inf).argmin(-1).astype(jnp.int32)


@dataclass(frozen=True, repr=False)
class KMedoids(Reducer):
    """Clusters that are represented by one of their tokens.

    Attributes:
        iterations: turns.
        proportional_attention, attention_keep: see `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False
    iterations: int = 3

    def __post_init__(self) -> None:
        """Refuse what is no number of turns."""
        super().__post_init__()
        if self.iterations < 0:
            raise InputError(f"iterations={self.iterations} is negative: use 3")

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """1 for a medoid, 0 for the others, `[B, N]`."""
        x = jax.lax.stop_gradient(tokens.patches)
        distance = matching.pairwise_distances(x)
        medoids, _ = split_by_score(received(tokens, signals), keep)
        for _ in range(self.iterations):
            medoids = improved(distance, medoids)
        return (medoids[:, :, None] == jnp.arange(x.shape[1])).any(1).astype(jnp.float32)

    @property
    def parts(self) -> Parts:
        """Medoids, distances, nothing fused."""
        score = Score(self.rank, ("received",), macs=lambda context: context.patches**2 * context.width)
        return Parts(score, NEAREST, REPRESENT)
