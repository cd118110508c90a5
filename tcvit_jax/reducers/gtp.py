"""GTP-ViT: graph-based token propagation (Xu et al., WACV 2024, arXiv 2311.03035).

Tokens are nodes of a graph that is built once, from the embedded patches: spatial neighbours on the grid, semantic
neighbours by cosine, or both. With `A` its adjacency and `A^ = D^-1/2 A D^-1/2`, each block

1. scores every patch token by how hard it is to regenerate and how much it broadcasts, from the attention map `W`
   (rows are queries): `max_h W_ii * max_h sum_q W_qi`;
2. keeps the highest; and
3. propagates the others to their kept neighbours, `x_k + alpha * A^[k, p] x_p`, sizes alike.

Degrees are those of the first graph: later blocks read a sub-matrix of `A^`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tcvit_jax.errors import InputError, unknown
from tcvit_jax.ops import graph as graphs
from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import split_by_score
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Plan, Tokens

# From the diagonal and the column sums of each head, [B, H, N], to a score [B, N]. The two maxima of a mixed score
# are independent of each other, as in the published code.
SCORES: dict[str, Callable[[Array, Array], Array]] = {
    "diag_mean": lambda diagonal, received: diagonal.mean(1),
    "diag_max": lambda diagonal, received: diagonal.max(1),
    "received_mean": lambda diagonal, received: received.mean(1),
    "received_max": lambda diagonal, received: received.max(1),
    "mixed_mean": lambda diagonal, received: diagonal.mean(1) * received.mean(1),
    "mixed_max": lambda diagonal, received: diagonal.max(1) * received.max(1),
    "sum_max": lambda diagonal, received: diagonal.max(1) + received.max(1),
}
GRAPHS = ("spatial", "semantic", "mixed")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Graph:
    """The graph of one image batch: `adjacency [B, N0, N0]` bool and `root [B, N0]`, its degrees to the power -1/2."""

    adjacency: Array
    root: Array


@dataclass(frozen=True)
class GTP(Reducer):
    """Graph-based token propagation.

    Attributes:
        score: how tokens are ranked, a name out of `SCORES`.
        graph: `"spatial"`, `"semantic"` or `"mixed"` (their union).
        neighbors: semantic neighbours of each token.
        alpha: how much of a removed token its neighbours receive.
        proportional_attention: see `Reducer`; a token's size grows by `alpha * A^` times the sizes it received.
    """

    signals: ClassVar[tuple[str, ...]] = ("diagonal", "received")
    score: str = "mixed_max"
    graph: str = "mixed"
    neighbors: int = 8
    alpha: float = 0.1
    proportional_attention: bool = True

    def __post_init__(self) -> None:
        """Refuse names and values that no graph has."""
        if self.score not in SCORES:
            raise unknown("score", self.score, SCORES)
        if self.graph not in GRAPHS:
            raise unknown("graph", self.graph, GRAPHS)
        if self.neighbors < 0 or (self.neighbors == 0 and self.graph == "semantic"):
            raise InputError(f"neighbors={self.neighbors} leaves the {self.graph} graph without edges: use 8")
        if not self.alpha >= 0:
            raise InputError(f"alpha={self.alpha} is negative: sizes would shrink below one; use 0.1")

    def prepare(self, tokens: Tokens, grid: tuple[int, int]) -> Graph:
        """The graph over the embedded patches, position embedding included (section 3)."""
        batch, patches = tokens.origin.shape
        adjacency = jnp.zeros((batch, patches, patches), bool)
        if self.graph != "semantic":
            adjacency |= graphs.spatial(grid)
        if self.graph != "spatial":
            adjacency |= graphs.semantic(jax.lax.stop_gradient(tokens.patches), self.neighbors)
        return Graph(adjacency, graphs.inverse_root_degree(adjacency))

    def plan(self, tokens: Tokens, signals: Signals, keep: int) -> Plan:
        """Keep the highest scores; propagate the rest along the graph."""
        assert signals.diagonal is not None and signals.received is not None
        patches = slice(tokens.prefix, None)
        score = SCORES[self.score](signals.diagonal[..., patches], signals.received[..., patches])
        kept, removed = split_by_score(score, keep)
        graph: Graph = tokens.state
        origin_kept, origin_removed = take_rows(tokens.origin, kept), take_rows(tokens.origin, removed)
        edges = graphs.normalised_block(graph.adjacency, graph.root, origin_kept, origin_removed)
        return plans.adding(kept, removed, self.alpha * edges)

    def prepare_macs(self, patches: int, width: int) -> int:
        """The cosine of every pair, where the graph asks for it."""
        return 0 if self.graph == "spatial" else patches * patches * width

    def plan_macs(self, patches: int, keep: int, prefix: int, heads: int) -> int:
        """Column sums of every head's map, and the degrees' two factors per edge read."""
        return heads * (patches + prefix) ** 2 + 2 * keep * (patches - keep)
