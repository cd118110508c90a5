"""GTP-ViT: graph-based token propagation (Xu et al., WACV 2024, arXiv 2311.03035).

Tokens are nodes of a graph that is built once, from the embedded patches: spatial neighbors on the grid, semantic
neighbors by cosine, or both. With `A` its adjacency and `A^ = D^-1/2 A D^-1/2`, each block

1. scores every patch token by how hard it is to regenerate and how much it broadcasts, from the attention map `W`
   (rows are queries): `max_h W_ii * max_h sum_q W_qi`;
2. keeps the highest; and
3. propagates the others to their kept neighbors, `x_k + alpha * A^[k, p] x_p`, sizes alike.

Degrees are those of the first graph: later blocks read a sub-matrix of `A^`. The published code (Apache-2.0) is the
reference of the tests; nothing of it is copied. Where it is at fault the tests say so, defect by defect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.errors import InputError, unknown
from tcvit_jax.ops import graph as graphs
from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer, requirement
from tcvit_jax.reducers.fusions import DROP, MEAN_TOKEN, propagate
from tcvit_jax.reducers.parts import BlockContext, Match, Parts, Score
from tcvit_jax.reducers.scores import random_order
from tcvit_jax.tokens import Tokens

# A score of the patch tokens, `[B, N]`, from the signals that it reads and the number of prefix tokens.
Rank = Callable[[Sequence[Array], int], Float[Array, "B N"]]


def _dissimilarity(read: Sequence[Float[Array, "B T T"]], prefix: int) -> Float[Array, "B N"]:
    """Return minus the similarity of each patch token's attention row to those of all patch tokens.

    The sum of cosines with all rows is one product with their sum.
    """
    (rows,) = read
    unit = matching.normalize_rows(rows[:, prefix:])
    return -jnp.einsum("bnt,bt->bn", unit, unit.sum(1), precision="highest")


# The signals that each score reads, and the score. The two maxima of a mixed score are independent of each other, as in
# the published code.
SCORES: dict[str, tuple[tuple[str, ...], Rank]] = {
    "cls_mean": (("class_row",), lambda read, prefix: read[0][..., prefix:].mean(1)),
    "cls_max": (("class_row",), lambda read, prefix: read[0][..., prefix:].max(1)),
    "received_mean": (("received",), lambda read, prefix: read[0][..., prefix:].mean(1)),
    "received_max": (("received",), lambda read, prefix: read[0][..., prefix:].max(1)),
    "diag_mean": (("diagonal",), lambda read, prefix: read[0][..., prefix:].mean(1)),
    "diag_max": (("diagonal",), lambda read, prefix: read[0][..., prefix:].max(1)),
    "mixed_mean": (("diagonal", "received"), lambda read, prefix: (read[0].mean(1) * read[1].mean(1))[:, prefix:]),
    "mixed_max": (("diagonal", "received"), lambda read, prefix: (read[0].max(1) * read[1].max(1))[:, prefix:]),
    "sum_max": (("diagonal", "received"), lambda read, prefix: (read[0].max(1) + read[1].max(1))[:, prefix:]),
    "cosine_mean": (("map",), _dissimilarity),
    "cosine_max": (("map_max",), _dissimilarity),
}
SCORE_NAMES = (*SCORES, "random")
GRAPHS = ("spatial", "semantic", "mixed")
PROPAGATIONS = ("graph", "mean", "none")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Graph:
    """The graph of one image batch: `adjacency [B, N0, N0]` bool and `root [B, N0]`, its degrees to the power -1/2."""

    adjacency: Array
    root: Array


@dataclass(frozen=True, repr=False)
class GTP(Reducer):
    """Graph-based token propagation.

    Attributes:
        score: how tokens are ranked, a name out of `SCORE_NAMES`: class attention, attention received, attention to
            itself, the product or the sum of the last two, dissimilarity of attention rows, or a random order.
        graph: `"spatial"`, `"semantic"` or `"mixed"` (their union).
        neighbors: semantic neighbors of each token.
        alpha: how much of a removed token its neighbors receive.
        propagation: `"graph"`; `"mean"`, one more token behind the kept ones, the plain mean of the removed ones,
            which is a patch token like others from then on; or `"none"`, pruning.
        proportional_attention, attention_keep: see `Reducer`. With a graph, a token's size grows by `alpha * A^` times
            the sizes it received; a mean token's size is the sum of what it stands for.
        seed: of the random score. Each number of tokens has its own order, the same for every image, so that an image
            gives the same answer in any batch.
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
        """Refuse names and values that no graph has."""
        super().__post_init__()
        if self.score not in SCORE_NAMES:
            raise unknown("score", self.score, SCORE_NAMES)
        if self.graph not in GRAPHS:
            raise unknown("graph", self.graph, GRAPHS)
        if self.propagation not in PROPAGATIONS:
            raise unknown("propagation", self.propagation, PROPAGATIONS)
        if self.neighbors < 0:
            raise InputError(f"neighbors={self.neighbors} is negative: use 8, or graph='spatial' for none")
        if self.neighbors == 0 and self.graph == "semantic":
            raise InputError("neighbors=0 leaves the semantic graph without edges: use 8")
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha={self.alpha} is not a part of a token, 0 or more: use 0.1")

    @property
    def parts(self) -> Parts:
        """The score by its name; edges of the graph, and none where nothing is propagated along them."""
        read = () if self.score == "random" else SCORES[self.score][0]
        score = Score(self.rank, read, self._rank_macs, needs_class_token="class_row" in read)
        match = Match(
            edges,
            # The degrees' two factors per edge.
            macs=lambda context: 2 * context.keep * context.removed,
            check=self._check_neighbors,
            prepare=self.build_graph,
            prepare_macs=lambda patches, width: 0 if self.graph == "spatial" else patches * patches * width,
        )
        if self.propagation == "graph":
            return Parts(score, match, propagate(self.alpha))
        return Parts(score, None, MEAN_TOKEN if self.propagation == "mean" else DROP)

    def inactive_fields(self) -> Mapping[str, str]:
        """The graph's fields where nothing is propagated along it, and the seed of a score that is not random."""
        unread = dict(super().inactive_fields())
        if self.score != "random":
            unread["seed"] = requirement("score", "random")
        if self.propagation != "graph":
            unread |= dict.fromkeys(("alpha", "graph", "neighbors"), requirement("propagation", "graph"))
        elif self.graph == "spatial":
            unread["neighbors"] = requirement("graph", "semantic", "mixed")
        return unread

    def _check_neighbors(self, patches: int) -> None:
        """A token has fewer semantic neighbors than there are others."""
        if self.graph != "spatial":
            graphs.check_neighbors(self.neighbors, patches)

    def build_graph(self, tokens: Tokens, grid: tuple[int, int]) -> Graph:
        """The graph over the embedded patches, position embedding included (section 3)."""
        batch, patches = tokens.origin.shape
        adjacency = jnp.zeros((batch, patches, patches), bool)
        if self.graph != "semantic":
            adjacency |= graphs.spatial_adjacency(grid)
        if self.graph != "spatial":
            adjacency |= graphs.semantic_adjacency(jax.lax.stop_gradient(tokens.patches), self.neighbors)
        return Graph(adjacency, graphs.inverse_root_degree(adjacency))

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """The score `[B, N]` of each patch token; the higher stays."""
        if self.score == "random":
            return random_order(tokens, self.seed)
        read, score = SCORES[self.score]
        return score([getattr(signals, name) for name in read], tokens.prefix)

    def _rank_macs(self, context: BlockContext) -> int:
        """The cosine of attention rows."""
        return context.patches * context.tokens if self.score.startswith("cosine") else 0


def edges(
    tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
) -> Float[Array, "B R K"]:
    """The normalized adjacency between removed and kept tokens, `[B, R, K]`."""
    graph: Graph = tokens.state
    origin_kept, origin_removed = take_rows(tokens.origin, kept), take_rows(tokens.origin, removed)
    return jnp.swapaxes(graphs.normalized_block(graph.adjacency, graph.root, origin_kept, origin_removed), 1, 2)
