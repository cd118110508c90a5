"""K-medoids clustering (Kaufman and Rousseeuw, 1987; for ViTs Haurum et al., 2023).

The initial medoids are the `K` tokens that receive the most attention. In each iteration, every token joins the nearest
medoid by the Euclidean distance of features, and every cluster takes as its medoid the member with the smallest sum of
distances to the other members. The medoids are kept unchanged and represent their clusters.

This is the textbook algorithm. The comparison suite of Haurum et al. instead sums distances over all tokens, so that
its medoids are the tokens closest to all others.

Written from the formulas; no code was ported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.errors import out_of_range
from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import one_hot_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.fusions import REPRESENT
from tcvit_jax.reducers.matches import NEAREST
from tcvit_jax.reducers.parts import Parts, Score
from tcvit_jax.reducers.scores import received_attention
from tcvit_jax.tokens import Tokens

# Iterations are unrolled in the compiled program. The assignment converges after a few.
MAX_ITERATIONS = 100


def update_medoids(distance: Float[Array, "B N N"], medoids: Int[Array, "B K"]) -> Int[Array, "B K"]:
    """Return the medoids after one iteration.

    Args:
        distance: `[B, N, N]` distances between tokens.
        medoids: `[B, K]` int32 medoids before the iteration.

    Returns:
        `[B, K]` int32.
    """
    patches = distance.shape[1]
    is_medoid = one_hot_rows(medoids, patches, bool).any(1)
    # Subtract 1 from the distance of each token to itself: among equal tokens every medoid then stays in its own
    # cluster, and no cluster is empty.
    to_medoids = jnp.where(is_medoid[:, None, :], distance, jnp.inf) - jnp.eye(patches, dtype=jnp.float32)[None]
    cluster = to_medoids.argmin(-1).astype(jnp.int32)
    is_same_cluster = cluster[:, :, None] == cluster[:, None, :]
    cost = jnp.where(is_same_cluster, distance, 0).sum(-1)
    is_member = cluster[:, None, :] == medoids[:, :, None]
    return jnp.where(is_member, cost[:, None, :], jnp.inf).argmin(-1).astype(jnp.int32)


@dataclass(frozen=True, repr=False)
class KMedoids(Reducer):
    """Clusters that are represented by their medoids.

    Attributes:
        iterations: Number of iterations, in [0, 100]; 0 keeps the initial medoids.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False
    iterations: int = 3

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        if not 0 <= self.iterations <= MAX_ITERATIONS:
            raise out_of_range("iterations", self.iterations, f"in [0, {MAX_ITERATIONS}]")

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return 1 for medoids and 0 for other tokens, `[B, N]`."""
        x = jax.lax.stop_gradient(tokens.patches)
        distance = matching.pairwise_distances(x)
        medoids, _ = split_by_score(received_attention(tokens, signals), keep)
        for _ in range(self.iterations):
            medoids = update_medoids(distance, medoids)
        return one_hot_rows(medoids, x.shape[1], bool).any(1).astype(jnp.float32)

    @property
    def parts(self) -> Parts:
        """Medoids, feature distance, no fusion of features."""
        score = Score(self.rank, ("received",), macs=lambda context: context.patches**2 * context.width)
        return Parts(score, NEAREST, REPRESENT)
