"""GTP-ViT: graph-based token propagation (Xu et al., WACV 2024, arXiv 2311.03035).

Tokens are nodes of a graph that is built once, from the embedded patches: spatial neighbors on the grid, semantic
neighbors by cosine, or both. With the adjacency `A` and `A^ = D^-1/2 A D^-1/2`, each block

1. scores every patch token by how hard it is to regenerate and how much it broadcasts, from the attention map `W`
   (rows are queries): `max_h W_ii * max_h sum_q W_qi`;
2. keeps the tokens with the highest scores; and
3. propagates the removed tokens to their kept neighbors, `x_k + alpha * A^[k, p] x_p`. Sizes are propagated likewise.

Degrees are those of the first graph: later blocks read a submatrix of `A^`. The tests compare with the published code
(Apache-2.0), of which nothing is copied, and document its defects (`tests/reducers/test_gtp_defects.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.errors import check_range, conflicts, out_of_range, unknown
from tcvit_jax.ops import graph as graphs
from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer, check_seed, format_requirement
from tcvit_jax.reducers.fusions import DROP, MEAN_TOKEN, propagate
from tcvit_jax.reducers.parts import BlockContext, Match, Parts, Score
from tcvit_jax.reducers.scores import random_order
from tcvit_jax.tokens import Tokens

# Function from the signals that a score reads and the number of prefix tokens to the score `[B, N]`.
ScoreFunction = Callable[[Sequence[Array], int], Float[Array, "B N"]]


def _dissimilarity(inputs: Sequence[Float[Array, "B T T"]], prefix: int) -> Float[Array, "B N"]:
    """Return the negative sum of cosines between each patch token's attention row and those of all patch tokens.

    The sum of cosines with all rows equals one product with the sum of the normalized rows.
    """
    (rows,) = inputs
    unit = matching.normalize_rows(rows[:, prefix:])
    return -jnp.einsum("bnt,bt->bn", unit, unit.sum(1), precision="highest")


# The signals that each score reads, and its function. As in the published code, a mixed score takes its two maxima
# independently.
SCORES: dict[str, tuple[tuple[str, ...], ScoreFunction]] = {
    "cls_mean": (("class_row",), lambda inputs, prefix: inputs[0][..., prefix:].mean(1)),
    "cls_max": (("class_row",), lambda inputs, prefix: inputs[0][..., prefix:].max(1)),
    "received_mean": (("received",), lambda inputs, prefix: inputs[0][..., prefix:].mean(1)),
    "received_max": (("received",), lambda inputs, prefix: inputs[0][..., prefix:].max(1)),
    "diag_mean": (("diagonal",), lambda inputs, prefix: inputs[0][..., prefix:].mean(1)),
    "diag_max": (("diagonal",), lambda inputs, prefix: inputs[0][..., prefix:].max(1)),
    "mixed_mean": (
        ("diagonal", "received"),
        lambda inputs, prefix: (inputs[0].mean(1) * inputs[1].mean(1))[:, prefix:],
    ),
    "mixed_max": (("diagonal", "received"), lambda inputs, prefix: (inputs[0].max(1) * inputs[1].max(1))[:, prefix:]),
    "sum_max": (("diagonal", "received"), lambda inputs, prefix: (inputs[0].max(1) + inputs[1].max(1))[:, prefix:]),
    "cosine_mean": (("map",), _dissimilarity),
    "cosine_max": (("map_max",), _dissimilarity),
}
SCORE_NAMES = (*SCORES, "random")
GRAPHS = ("spatial", "semantic", "mixed")
PROPAGATIONS = ("graph", "mean", "none")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Graph:
    """The graphs of a batch of images.

    Attributes:
        adjacency: `[B, N0, N0]` bool.
        root: `[B, N0]` float32, degrees to the power -1/2.
    """

    adjacency: Array
    root: Array


@dataclass(frozen=True, repr=False)
class GTP(Reducer):
    """Graph-based token propagation.

    Attributes:
        score: The score, a name from `SCORE_NAMES`: class attention (`"cls_*"`), received attention (`"received_*"`),
            attention of a token to itself (`"diag_*"`), the product (`"mixed_*"`) or the sum (`"sum_max"`) of the last
            two, dissimilarity of attention rows (`"cosine_*"`), or a random order (`"random"`). The suffix is the
            reduction over heads.
        graph: `"spatial"`, `"semantic"` or `"mixed"` (their union).
        neighbors: Number of semantic neighbors of each token.
        alpha: Propagation strength: the factor of `A^`, in [0, 1].
        propagation: `"graph"`; `"mean"`, which fuses the removed tokens into one extra token, their plain mean, which
            is a regular patch token in later blocks; or `"none"`, pruning.
        seed: Seed of the random score, in [0, 2**32). Each number of tokens has its own order, the same for all
            images, so that the result for an image does not depend on its batch.
        proportional_attention: See `Reducer`. With `propagation="graph"`, the size of a kept token grows by
            `alpha * A^` times the sizes of the removed tokens; the size of a mean token is the sum of their sizes.
        attention_keep: See `Reducer`.
    """

    IS_REFERENCE: ClassVar[bool] = True
    CLASS_TOKEN_ADVICE: ClassVar[str] = "set score='mixed_max'"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "alpha": (0.05, 0.2, 0.4),
        "graph": ("spatial", "semantic"),
        "neighbors": (4,),
    }

    score: str = "mixed_max"
    graph: str = "mixed"
    neighbors: int = 8
    alpha: float = 0.1
    propagation: str = "graph"
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        if self.score not in SCORE_NAMES:
            raise unknown("score", self.score, SCORE_NAMES)
        if self.graph not in GRAPHS:
            raise unknown("graph", self.graph, GRAPHS)
        if self.propagation not in PROPAGATIONS:
            raise unknown("propagation", self.propagation, PROPAGATIONS)
        if self.neighbors < 0:
            raise out_of_range("neighbors", self.neighbors, ">= 0")
        if self.neighbors == 0 and self.graph == "semantic":
            raise conflicts("neighbors=0", "graph='semantic'", "set neighbors >= 1 or graph='spatial'")
        # At 1, tokens grow at most threefold in each block, so that no model is deep enough to overflow.
        check_range("alpha", self.alpha, 0, 1, hint="0.1 is the paper's value")
        check_seed(self.seed)

    @property
    def parts(self) -> Parts:
        """The score by name; graph edges and propagation, or no match with `"mean"` and `"none"`."""
        signals = () if self.score == "random" else SCORES[self.score][0]
        score = Score(self.rank, signals, self._rank_macs, needs_class_token="class_row" in signals)
        match = Match(
            edges,
            # Two degree factors per edge.
            macs=lambda context: 2 * context.keep * context.removed,
            check=self._check_neighbors,
            prepare=self.build_graph,
            prepare_macs=lambda patches, width: 0 if self.graph == "spatial" else patches * patches * width,
        )
        if self.propagation == "graph":
            return Parts(score, match, propagate(self.alpha))
        return Parts(score, None, MEAN_TOKEN if self.propagation == "mean" else DROP)

    def inactive_fields(self) -> Mapping[str, str]:
        """Return the inactive fields: those of an unused graph, and the seed of a score that is not random."""
        inactive = dict(super().inactive_fields())
        if self.score != "random":
            inactive["seed"] = format_requirement("score", "random")
        if self.propagation != "graph":
            inactive |= dict.fromkeys(("alpha", "graph", "neighbors"), format_requirement("propagation", "graph"))
        elif self.graph == "spatial":
            inactive["neighbors"] = format_requirement("graph", "semantic", "mixed")
        return inactive

    def _check_neighbors(self, patches: int) -> None:
        """Raise `InputError` unless each token has enough other tokens as semantic neighbors."""
        if self.graph != "spatial":
            graphs.check_neighbors(self.neighbors, patches)

    def build_graph(self, tokens: Tokens, grid: tuple[int, int]) -> Graph:
        """Return the graph over the embedded patches, including their position embedding (section 3).

        Args:
            tokens: The embedded tokens.
            grid: `(height, width)` of the patch grid.
        """
        batch, patches = tokens.origin.shape
        adjacency = jnp.zeros((batch, patches, patches), bool)
        if self.graph != "semantic":
            adjacency |= graphs.spatial_adjacency(grid)[None]
        if self.graph != "spatial":
            adjacency |= graphs.semantic_adjacency(jax.lax.stop_gradient(tokens.patches), self.neighbors)
        return Graph(adjacency, graphs.inverse_root_degree(adjacency))

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return the score of each patch token, `[B, N]`; the highest are kept."""
        if self.score == "random":
            return random_order(tokens, self.seed)
        names, score = SCORES[self.score]
        return score([getattr(signals, name) for name in names], tokens.prefix)

    def _rank_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of the cosines of attention rows; other scores need no products."""
        return context.patches * context.tokens if self.score.startswith("cosine") else 0


def edges(
    tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
) -> Float[Array, "B R K"]:
    """Return the normalized adjacency between removed and kept tokens, `[B, R, K]`.

    Args:
        tokens: Tokens whose state is the graph.
        signals: Unused.
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
    """
    graph: Graph = tokens.state
    origin_kept, origin_removed = take_rows(tokens.origin, kept), take_rows(tokens.origin, removed)
    return jnp.swapaxes(graphs.normalized_block(graph.adjacency, graph.root, origin_kept, origin_removed), 1, 2)
