"""Connectivity of tokens: walks over the attention graph, or over a graph of similar tokens (TC-ViT, section 3).

The graph is the attention map averaged over heads, `W` (rows are queries), or an affinity `A` of patch tokens
(`ops.affinity`). In the map of a pretrained model, a few tokens can receive most of the attention of all others. Such
attention sinks are the ends of every walk, so that connectivity ranks them first and matches every token with them. An
affinity is symmetric, so that its walks are reversible and no token collects more than its degree.

With a polynomial `p` of degree K (`ops.walks`), the connectivity of tokens i and j is `p(W)[i, j]` on the attention
graph, and `C = p(D^-1/2 A D^-1/2)` on an affinity, scaled to `C_ij / sqrt(C_ii C_jj)` if it is a kernel. No power of
`W` is computed explicitly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.errors import as_integer, check_range, out_of_range, unknown
from tcvit_jax.ops import affinity as affinities
from tcvit_jax.ops import matching, walks
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.division import ratio
from tcvit_jax.ops.gather import take_block, take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.parts import BlockContext
from tcvit_jax.tokens import Tokens

# Every step of a walk is a product of the compiled program. Long walks forget where they started.
MAX_ORDER = 100


@dataclass(frozen=True, repr=False)
class ConnectivityGraph(Reducer):
    """The graph of a reducer whose tokens are connected by walks, and the walks.

    Attributes:
        order: K, the length of the walks that score tokens, in [1, 100].
        match_order: Length of the walks that match removed and kept tokens. None means `order`. Long walks forget where
            they started, so that a large value sends every removed token to the same kept token.
        affinity: The weights of the graph: `"attention"`, the attention map `W`, as in the paper; or an affinity of
            patch tokens without attention sinks: `"symmetric"`, `(W + W^T) / 2`; `"meeting"`, `W D^-1 W^T`, tokens
            whose attention meets at the same tokens, where `D` is the attention that each of them receives (all of its
            rows and columns have the same sum, so that the connectivity of all tokens is equal); `"keys"` or
            `"features"`, `exp((cos - 1) / affinity_temperature)` with the cosines of keys averaged over heads, or of
            features.
        affinity_temperature: Temperature of `"keys"` and `"features"`, in [0.001, 100].
        walk: `"power"`, `"cumulative"`, `"katz"` or `"lazy"` (`ops.walks.coefficients`).
        gamma: Discount of `"katz"` walks, in [0, 1].
        match_norm: Normalization of the match on the attention graph: `"none"`; `"lift"`, divided by the mass that
            reaches the kept token from all patches, so that tokens that every token reaches are not preferred;
            `"softmax"` over the kept tokens.
        heads: Reduction of the attention maps of all heads to `W`: their `"mean"`, or their `"max"` with rows scaled to
            sum to one.
        graph: Whether walks over attention visit all tokens (`"full"`) or only patch tokens (`"patch"`).
        self_loops: Whether a walk over attention can stay at a token, by the attention of the token to itself.
        renormalize: Whether rows that lose entries to `graph` or `self_loops` are scaled to sum to one again.
        columns: The starting points of the walks that count for connectivity: `"patch"` tokens or `"all"` tokens.
        direction: Direction of the walks of the match on the attention graph: from the removed token `"to_kept"`
            tokens, `"from_kept"` tokens to the removed one, or `"both"` (their mean).
        grad_through_soft: Whether gradients flow into attention through the connectivity.
    """

    # The names that a field may have.
    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "affinity": ("attention", "symmetric", "meeting", "keys", "features"),
        "walk": tuple(walks.WALKS),
        "match_norm": ("none", "lift", "softmax"),
        "heads": ("mean", "max"),
        "graph": ("full", "patch"),
        "columns": ("patch", "all"),
        "direction": ("to_kept", "from_kept", "both"),
    }

    order: int = 2
    match_order: int | None = None
    affinity: str = "attention"
    affinity_temperature: float = 0.1
    walk: str = "power"
    gamma: float = 0.5
    match_norm: str = "none"
    heads: str = "mean"
    graph: str = "full"
    self_loops: bool = True
    renormalize: bool = False
    columns: str = "patch"
    direction: str = "to_kept"
    grad_through_soft: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        for name, options in self.OPTIONS.items():
            if getattr(self, name) not in options:
                raise unknown(name, getattr(self, name), options)
        for name in ("order", "match_order"):
            value = getattr(self, name)
            if value is not None and not 1 <= as_integer(name, value) <= MAX_ORDER:
                raise out_of_range(name, value, f"in [1, {MAX_ORDER}]")
        check_range("affinity_temperature", self.affinity_temperature, 0.001, 100)
        check_range("gamma", self.gamma, 0, 1, hint="0 equals order=1, 1 equals walk='cumulative'")

    @property
    def reads_map(self) -> bool:
        """Whether the graph is made of the attention map."""
        return self.affinity not in ("keys", "features")

    @property
    def map_signal(self) -> str:
        """The signal of the transition matrix."""
        return "map" if self.heads == "mean" else "map_max"

    @property
    def graph_signals(self) -> tuple[str, ...]:
        """The signals of the graph."""
        return (self.map_signal,) if self.reads_map else ("keys",) if self.affinity == "keys" else ()

    @property
    def loses_entries(self) -> bool:
        """Whether rows of the transition matrix lose entries to `graph` or `self_loops`."""
        return self.graph == "patch" or not self.self_loops

    def coefficients(self, order: int) -> list[float]:
        """Return the coefficients of the walks of a length."""
        return walks.coefficients(self.walk, order, self.gamma)

    def stop_gradient(self, signals: Signals) -> Signals:
        """Return the signals, as constants for the gradient unless `grad_through_soft`."""
        return signals if self.grad_through_soft else jax.lax.stop_gradient(signals)

    def transition_matrix(self, tokens: Tokens, signals: Signals) -> Float[Array, "B T T"]:
        """Return `W`, `[B, T, T]`, as defined by `heads`, `graph`, `self_loops` and `renormalize`."""
        matrix = signals.map if self.heads == "mean" else signals.map_max
        assert matrix is not None
        row, column = (jax.lax.broadcasted_iota(jnp.int32, (1, *matrix.shape[1:]), axis) for axis in (1, 2))
        if self.graph == "patch":
            matrix = jnp.where((row >= tokens.prefix) & (column >= tokens.prefix), matrix, 0)
        if not self.self_loops:
            matrix = jnp.where(row == column, 0, matrix)
        is_scaled = self.heads == "max" or (self.renormalize and self.loses_entries)
        return ratio(matrix, matrix.sum(-1, keepdims=True)) if is_scaled else matrix

    def affinity_matrix(self, tokens: Tokens, signals: Signals) -> Float[Array, "B N N"]:
        """Return the affinity `A` of the patch tokens, `[B, N, N]`; undefined for `affinity="attention"`."""
        if self.affinity == "symmetric":
            return affinities.symmetrize(self.transition_matrix(tokens, signals), tokens.prefix)
        if self.affinity == "meeting":
            return affinities.meeting(self.transition_matrix(tokens, signals), tokens.prefix)
        is_keys = self.affinity == "keys"
        x = matching.patch_keys(tokens, signals) if is_keys else jax.lax.stop_gradient(tokens.patches)
        return affinities.kernel(x, self.affinity_temperature)

    def connectivity(self, tokens: Tokens, signals: Signals, order: int | None = None) -> Float[Array, "B N"]:
        """Return the connectivity of each patch token, `[B, N]`: the mass that reaches it from the others.

        Args:
            tokens: The tokens of the block.
            signals: Attention statistics of the block.
            order: Length of the walks. None means the field `order`.
        """
        return self.connectivity_on(tokens, self.graph_matrix(tokens, signals), order or self.order)

    def graph_matrix(self, tokens: Tokens, signals: Signals) -> Float[Array, "B _ _"]:
        """Return the matrix of the graph: `W`, `[B, T, T]`, or the affinity, `[B, N, N]`."""
        build = self.transition_matrix if self.affinity == "attention" else self.affinity_matrix
        return build(tokens, signals)

    def connectivity_on(self, tokens: Tokens, matrix: Float[Array, "B _ _"], order: int) -> Float[Array, "B N"]:
        """Return the connectivity of each patch token by walks of a length on the graph of `graph_matrix`."""
        if self.affinity != "attention":
            return affinities.walk_mass(matrix, self.coefficients(order))
        return self.walk_mass(tokens, matrix, self.coefficients(order), self.columns)

    def walk_mass(
        self, tokens: Tokens, matrix: Float[Array, "B T T"], coefficients: list[float], columns: str
    ) -> Float[Array, "B N"]:
        """Return the mass that reaches each patch token from all starting points, `[B, N]`."""
        first = tokens.prefix if columns == "patch" else 0
        is_start = jnp.broadcast_to(jnp.arange(matrix.shape[-1], dtype=jnp.int32) >= first, matrix.shape[:2])
        start = is_start.astype(matrix.dtype)
        return walks.walk_mass(matrix, start, coefficients)[:, tokens.prefix :]

    def similarity(
        self, tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
    ) -> Float[Array, "B R K"]:
        """Return the match of removed and kept tokens, `[B, R, K]`, by walks of length `match_order`.

        Args:
            tokens: The tokens of the block.
            signals: Attention statistics of the block.
            kept: `[B, K]` rows of the kept patch tokens.
            removed: `[B, R]` rows of the removed patch tokens.
        """
        return self.match_on(tokens, self.graph_matrix(tokens, self.stop_gradient(signals)), kept, removed)

    def match_on(
        self, tokens: Tokens, matrix: Float[Array, "B _ _"], kept: Int[Array, "B K"], removed: Int[Array, "B R"]
    ) -> Float[Array, "B R K"]:
        """Return the match, as `similarity`, on the graph of `graph_matrix`."""
        order = self.match_order or self.order
        if self.affinity != "attention":
            pairs = affinities.diffuse(matrix, self.coefficients(order))
            # Only kernels have a diagonal that compares a token with itself.
            return take_block(pairs if self.affinity == "symmetric" else affinities.unit_diagonal(pairs), removed, kept)
        reverse = jnp.swapaxes(matrix, 1, 2)
        directions = {"to_kept": [matrix], "from_kept": [reverse], "both": [matrix, reverse]}[self.direction]
        matches = [self._walk_block(each, kept + tokens.prefix, removed + tokens.prefix, order) for each in directions]
        match = matches[0] if len(matches) == 1 else (matches[0] + matches[1]) / 2
        if self.match_norm == "lift":
            mass = take_rows(self.walk_mass(tokens, matrix, self.coefficients(order), "patch"), kept)
            match = ratio(match, jnp.broadcast_to(mass[:, None, :], match.shape))
        return jax.nn.softmax(match, axis=-1) if self.match_norm == "softmax" else match

    def _walk_block(
        self, matrix: Float[Array, "B T T"], kept: Int[Array, "B K"], removed: Int[Array, "B R"], order: int
    ) -> Float[Array, "B R K"]:
        """Return the entries `[B, R, K]` of the walk polynomial; row and column indices include the prefix."""
        rows = walks.walk_rows(matrix, take_rows(matrix, removed), self.coefficients(order))
        all_rows = jnp.broadcast_to(jnp.arange(removed.shape[1], dtype=jnp.int32), removed.shape)
        return take_block(rows, all_rows, kept)

    def affinity_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of the affinity; the attention map needs none."""
        inner = {
            "meeting": context.tokens, "keys": context.width // context.heads, "features": context.width,
        }.get(self.affinity, 0)  # fmt: skip
        return context.patches**2 * inner

    def connectivity_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of the connectivity: K vector products, without those of the graph."""
        nodes = context.tokens if self.affinity == "attention" else context.patches
        return self.order * nodes**2

    def match_macs(self, context: BlockContext, rows: int) -> int:
        """Return the multiply-adds of the match of `rows` tokens, without those of the graph.

        On the attention graph these are K - 1 thin products and, with `"lift"`, the mass that reaches every token. On
        an affinity, all pairs of tokens are connected, because the scale of a pair needs both their own entries.
        """
        order = self.match_order or self.order
        if self.affinity != "attention":
            return (order - 1) * context.patches**3
        steps = (order - 1) * rows * (2 if self.direction == "both" else 1)
        return (steps + (order if self.match_norm == "lift" else 0)) * context.tokens**2
