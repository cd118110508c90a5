"""TC-ViT: connectivity-based token condensation (ICLR 2024 submission, OpenReview 8vGXHjuCiq).

The attention map averaged over heads, `W` (rows are queries), is the transition matrix of a walk over the tokens, and
`C_K = W^K` is the connectivity of order K. Let `s` be the sizes of the patch tokens; prefix tokens are never removed.
Each block

1. scores every patch token by its connectivity, how much the other patches reach it, `c_i = sum_j C_K[j, i]`, and by
   its dominance, the attention of the class token, `d_i = W[cls, i]`. Both are scaled to sum to one; the score is
   `balance * c + (1 - balance) * d`;
2. keeps the tokens with the highest scores; and
3. fuses each removed token q into the kept token that it reaches most, `argmax_p C_K[q, p]`, by the mean weighted by
   size, `y_p = (s_p x_p + sum_q s_q x_q) / (s_p + sum_q s_q)`.

The paper's equations are not public. Where its abstract and reviews leave a choice open, the default is the simplest
option and the others are fields, which answer questions of the reviewers (`docs/walk-order.md`). No power of `W` is
computed explicitly (`ops.walks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.errors import as_integer, check_range, conflicts, out_of_range, unknown
from tcvit_jax.ops import plans, walks
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_block, take_rows
from tcvit_jax.ops.ranking import midranks
from tcvit_jax.reducers.base import Reducer, format_requirement
from tcvit_jax.reducers.fusions import DROP, average_macs, best_share, pool, pool_macs, require_match, soft_share
from tcvit_jax.reducers.parts import BlockContext, Fusion, FusionInputs, Match, Parts, Score
from tcvit_jax.tokens import Plan, Tokens


def _ratio(x: Float[Array, ...], by: Float[Array, ...]) -> Float[Array, ...]:
    """Return `x / by`, and 0 where `by` is 0."""
    return jnp.where(by > 0, x / jnp.where(by > 0, by, 1), 0)


# Normalizations that make connectivity and dominance, each `[B, N]`, comparable before they are weighted.
SCORE_NORMS: dict[str, Callable[[Float[Array, "B N"]], Float[Array, "B N"]]] = {
    "sum": lambda x: _ratio(x, x.sum(-1, keepdims=True)),
    "none": lambda x: x,
    "minmax": lambda x: _ratio(x - x.min(-1, keepdims=True), x.max(-1, keepdims=True) - x.min(-1, keepdims=True)),
    "zscore": lambda x: _ratio(x - x.mean(-1, keepdims=True), x.std(-1, keepdims=True)),
    "rank": midranks,
}
# Every step of a walk is a product of the compiled program. Long walks forget where they started.
MAX_ORDER = 100
# Fusions that need the match.
_MATCH_FUSIONS = ("hard", "soft", "topm")
OPTIONS = {
    "walk": tuple(walks.WALKS),
    "fuse": (*_MATCH_FUSIONS, "drop", "single"),
    "match_norm": ("none", "lift", "softmax"),
    "score_norm": tuple(SCORE_NORMS),
    "dominance": ("cls", "cls_values", "cls_walk", "gap"),
    "heads": ("mean", "max"),
    "graph": ("full", "patch"),
    "columns": ("patch", "all"),
    "direction": ("to_kept", "from_kept", "both"),
    "fuse_weight": ("size", "mean", "score", "connectivity"),
}


@dataclass(frozen=True, repr=False)
class TCViT(Reducer):
    """Connectivity-based token condensation.

    Attributes:
        order: K, the length of the walks that score tokens, in [1, 100].
        match_order: Length of the walks that match removed and kept tokens. None means `order`. Long walks forget where
            they started, so that a large value sends every removed token to the same kept token.
        balance: Weight of connectivity, in [0, 1]; dominance has the weight `1 - balance`. 1 needs no class token.
        walk: `"power"`, `"cumulative"`, `"katz"` or `"lazy"` (`ops.walks.coefficients`).
        gamma: Discount of `"katz"` walks, in [0, 1].
        fuse: The fusion of removed tokens: `"hard"`, into the best match; `"soft"`, into all kept tokens in proportion
            to the match; `"topm"`, into the `top_m` best matches in proportion to the match; `"drop"`, none;
            `"single"`, all removed tokens into one extra token behind the kept ones. The extra token is weighted by
            dominance without normalization, as in EViT (by the mean connectivity if `balance` is 1), and is a regular
            patch token in later blocks.
        temperature: Temperature of `"soft"` and `"topm"`, finite and > 0: shares are proportional to
            `match ** (1 / temperature)` and approach those of `"hard"` as it approaches 0.
        match_norm: Normalization of the match: `"none"`; `"lift"`, divided by the mass that reaches the kept token from
            all patches, so that tokens that every token reaches are not preferred; `"softmax"` over the kept tokens.
        top_m: Number of matches of `"topm"`.
        score_norm: Normalization that makes connectivity and dominance comparable: `"sum"` to one, `"none"`, `"minmax"`
            to [0, 1], `"zscore"`, or `"rank"`, the number of tokens that each token exceeds.
        dominance: `"cls"`, the attention of the class token (with a distillation token, the mean of both);
            `"cls_values"`, the same times the norm of the value (as in ATS); `"cls_walk"`, the row of the class token
            in `C_K`; `"gap"`, the mean attention of all patches, which needs no class token.
        heads: Reduction of the attention maps of all heads to `W`: their `"mean"`, or their `"max"` with rows scaled to
            sum to one. Dominance by class attention is the same mean or maximum of the class rows, without scaling.
        graph: Whether walks visit all tokens (`"full"`) or only patch tokens (`"patch"`).
        self_loops: Whether a walk can stay at a token, by the attention of the token to itself.
        renormalize: Whether rows that lose entries to `graph` or `self_loops` are scaled to sum to one again.
        columns: The starting points of the walks that count for connectivity: `"patch"` tokens or `"all"` tokens.
        direction: Direction of the walks of the match: from the removed token `"to_kept"` tokens, `"from_kept"` tokens
            to the removed one, or `"both"` (their mean).
        fuse_weight: Weight of each token in a fused mean, in addition to its share: its `"size"`; 1 (`"mean"`); its
            `"score"`; or its size times its `"connectivity"` with the kept token. Sizes are summed in all cases.
        grad_through_soft: Whether gradients flow into attention through the weights of the fusion: the shares of
            `"soft"` and `"topm"`, and scores used as weights by `fuse_weight` or `"single"`.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    CLASS_TOKEN_ADVICE: ClassVar[str] = "set balance=1.0 or dominance='gap'"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "order": (1, 3, 4),
        "balance": (0.0, 0.25, 0.75),
        "match_order": (1,),
    }

    order: int = 2
    match_order: int | None = None
    balance: float = 0.5
    walk: str = "power"
    gamma: float = 0.5
    fuse: str = "hard"
    temperature: float = 1.0
    match_norm: str = "none"
    top_m: int = 4
    score_norm: str = "sum"
    dominance: str = "cls"
    heads: str = "mean"
    graph: str = "full"
    self_loops: bool = True
    renormalize: bool = False
    columns: str = "patch"
    direction: str = "to_kept"
    fuse_weight: str = "size"
    grad_through_soft: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        for name, options in OPTIONS.items():
            if getattr(self, name) not in options:
                raise unknown(name, getattr(self, name), options)
        for name in ("order", "match_order"):
            value = getattr(self, name)
            if value is not None and not 1 <= as_integer(name, value) <= MAX_ORDER:
                raise out_of_range(name, value, f"in [1, {MAX_ORDER}]")
        check_range("balance", self.balance, 0, 1, hint="0 is dominance only, 1 is connectivity only")
        check_range("gamma", self.gamma, 0, 1, hint="0 equals order=1, 1 equals walk='cumulative'")
        if not 0 < self.temperature < math.inf:
            raise out_of_range("temperature", self.temperature, "finite and > 0", "use fuse='hard' for the limit at 0")
        if self.top_m < 1:
            raise out_of_range("top_m", self.top_m, ">= 1", "use fuse='drop' to drop removed tokens")
        if self.score_norm == "zscore" and self.fuse_weight == "score":
            raise conflicts("fuse_weight='score'", "score_norm='zscore'", "weights must be >= 0; set score_norm='sum'")
        if self.dominance == "cls_walk" and self.graph == "patch" and self.balance < 1:
            raise conflicts("dominance='cls_walk'", "graph='patch'", "set graph='full', which has the class token")

    @property
    def parts(self) -> Parts:
        """The score, the connectivity match (None if the fusion needs none), and the fusion selected by `fuse`."""
        needs_class_token = self.balance < 1 and self.dominance != "gap"
        score = Score(self.rank, self._score_signals, self._score_macs, needs_class_token)
        if self.fuse not in _MATCH_FUSIONS:
            single = Fusion(self._pool, "propagate", needs_match=False, extra_tokens=1, macs=self._pool_macs)
            return Parts(score, None, DROP if self.fuse == "drop" else single)
        match = Match(self.similarity, (self._map,), self._match_macs)
        return Parts(
            score, match, Fusion(self._fuse, "merge", is_soft=self.fuse in ("soft", "topm"), macs=average_macs)
        )

    def inactive_fields(self) -> Mapping[str, str]:
        """Return the inactive fields: those of parts with weight 0, of other fusions and of other walks."""
        uses_match = self.fuse in _MATCH_FUSIONS
        uses_class_walk = self.balance < 1 and self.dominance == "cls_walk"
        uses_walks = self.balance > 0 or uses_class_walk or uses_match
        uses_transition_matrix = uses_walks or (self.balance < 1 and self.dominance == "gap")
        uses_attention_weights = self.fuse_weight in ("score", "connectivity") or self.fuse != "hard"
        match_condition = format_requirement("fuse", *_MATCH_FUSIONS)
        walk_condition = f"balance > 0 or dominance='cls_walk' or {match_condition}"
        matrix_condition = f"{walk_condition} or dominance='gap'"
        weight_condition = " or ".join(
            (
                format_requirement("fuse", "soft", "topm", "single"),
                format_requirement("fuse_weight", "score", "connectivity"),
            )
        )
        # For each field, whether it is active and what it requires.
        conditions = {
            "order": (
                self.balance > 0 or uses_class_walk or (uses_match and self.match_order is None),
                f"balance > 0 or dominance='cls_walk'{' or match_order=None' if uses_match else ''}",
            ),
            "match_order": (uses_match, match_condition),
            "walk": (uses_walks, walk_condition),
            "gamma": (
                uses_walks and self.walk == "katz",
                format_requirement("walk", "katz") if uses_walks else walk_condition,
            ),
            "temperature": (self.fuse in ("soft", "topm"), format_requirement("fuse", "soft", "topm")),
            "match_norm": (uses_match, match_condition),
            "top_m": (self.fuse == "topm", format_requirement("fuse", "topm")),
            "dominance": (self.balance < 1, "balance < 1"),
            "graph": (uses_transition_matrix, matrix_condition),
            "self_loops": (uses_transition_matrix, matrix_condition),
            # After a maximum over heads, rows are scaled to sum to one in any case.
            "renormalize": (
                uses_transition_matrix and self.heads == "mean" and self._loses_entries,
                "heads='mean', and graph='patch' or self_loops=False" if uses_transition_matrix else matrix_condition,
            ),
            # Walks over patch tokens only start at patch tokens.
            "columns": (
                self.balance > 0 and self.graph == "full",
                format_requirement("graph", "full") if self.balance > 0 else "balance > 0",
            ),
            "direction": (uses_match, match_condition),
            "fuse_weight": (uses_match, match_condition),
            "grad_through_soft": (self.fuse != "drop" and uses_attention_weights, weight_condition),
        }
        inactive = {name: condition for name, (is_active, condition) in conditions.items() if not is_active}
        return {**super().inactive_fields(), **inactive}

    @property
    def _map(self) -> str:
        return "map" if self.heads == "mean" else "map_max"

    @property
    def _loses_entries(self) -> bool:
        """Whether rows of the transition matrix lose entries to `graph` or `self_loops`."""
        return self.graph == "patch" or not self.self_loops

    @property
    def _score_signals(self) -> tuple[str, ...]:
        """The attention map for walks and the class row for dominance, if needed."""
        signals: list[str] = []
        if self.balance > 0 or self.dominance in ("cls_walk", "gap"):
            signals.append(self._map)
        if self.balance < 1 and self.dominance == "cls_values":
            signals += ["class_row", "value_norm"]
        elif self.balance < 1 and self.dominance == "cls" and "map" not in signals:
            signals.append("class_row")
        return tuple(signals)

    def transition_matrix(self, tokens: Tokens, signals: Signals) -> Float[Array, "B T T"]:
        """Return `W`, `[B, T, T]`, as defined by `heads`, `graph`, `self_loops` and `renormalize`."""
        matrix = signals.map if self.heads == "mean" else signals.map_max
        assert matrix is not None
        row, column = (jax.lax.broadcasted_iota(jnp.int32, (1, *matrix.shape[1:]), axis) for axis in (1, 2))
        if self.graph == "patch":
            matrix = jnp.where((row >= tokens.prefix) & (column >= tokens.prefix), matrix, 0)
        if not self.self_loops:
            matrix = jnp.where(row == column, 0, matrix)
        is_scaled = self.heads == "max" or (self.renormalize and self._loses_entries)
        return _ratio(matrix, matrix.sum(-1, keepdims=True)) if is_scaled else matrix

    def connectivity(self, tokens: Tokens, signals: Signals, order: int | None = None) -> Float[Array, "B N"]:
        """Return the connectivity of each patch token, `[B, N]`: the mass that reaches it from the others.

        Args:
            tokens: The tokens of the block.
            signals: Attention statistics of the block.
            order: Length of the walks. None means the field `order`.
        """
        return self._walk_mass(
            tokens, self.transition_matrix(tokens, signals), self._coefficients(order or self.order), self.columns
        )

    def _walk_mass(
        self, tokens: Tokens, matrix: Float[Array, "B T T"], coefficients: list[float], columns: str
    ) -> Float[Array, "B N"]:
        """Return the mass that reaches each patch token from all starting points, `[B, N]`."""
        first = tokens.prefix if columns == "patch" else 0
        is_start = jnp.broadcast_to(jnp.arange(matrix.shape[-1], dtype=jnp.int32) >= first, matrix.shape[:2])
        start = is_start.astype(matrix.dtype)
        return walks.walk_mass(matrix, start, coefficients)[:, tokens.prefix :]

    def _coefficients(self, order: int) -> list[float]:
        return walks.coefficients(self.walk, order, self.gamma)

    def dominance_score(self, tokens: Tokens, signals: Signals) -> Float[Array, "B N"]:
        """Return the dominance of each patch token, `[B, N]`, as defined by `dominance`."""
        prefix = tokens.prefix
        if self.dominance == "gap":
            # A single step, regardless of the kind of walk.
            return (
                self._walk_mass(tokens, self.transition_matrix(tokens, signals), [0.0, 1.0], "patch")
                / tokens.origin.shape[1]
            )
        if self.dominance == "cls_walk":
            matrix, count = self.transition_matrix(tokens, signals), tokens.class_tokens
            is_start = jnp.broadcast_to(jnp.arange(matrix.shape[-1], dtype=jnp.int32) < count, matrix.shape[:2])
            start = is_start.astype(jnp.float32) / count
            return walks.walk_mass(matrix, start, self._coefficients(self.order))[:, prefix:]
        if "class_row" not in self._score_signals:
            # The map already contains the mean over heads.
            assert signals.map is not None
            return signals.map[:, : tokens.class_tokens, prefix:].mean(1)
        row = signals.class_row
        assert row is not None
        if self.dominance == "cls_values":
            assert signals.value_norm is not None
            row = row * signals.value_norm
        return (row.mean(1) if self.heads == "mean" else row.max(1))[:, prefix:]

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return the representative score of each patch token, `[B, N]`; the highest are kept."""
        signals, norm = self._stop_gradient(signals), SCORE_NORMS[self.score_norm]
        parts: list[Array] = []
        if self.balance > 0:
            parts.append(self.balance * norm(self.connectivity(tokens, signals)))
        if self.balance < 1:
            parts.append((1 - self.balance) * norm(self.dominance_score(tokens, signals)))
        return sum(parts[1:], start=parts[0])

    def _stop_gradient(self, signals: Signals) -> Signals:
        """Return the signals, as constants for the gradient unless `grad_through_soft`."""
        return signals if self.grad_through_soft else jax.lax.stop_gradient(signals)

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
        matrix, order = self.transition_matrix(tokens, self._stop_gradient(signals)), self.match_order or self.order
        reverse = jnp.swapaxes(matrix, 1, 2)
        directions = {"to_kept": [matrix], "from_kept": [reverse], "both": [matrix, reverse]}[self.direction]
        matches = [self._walk_block(each, kept + tokens.prefix, removed + tokens.prefix, order) for each in directions]
        match = matches[0] if len(matches) == 1 else (matches[0] + matches[1]) / 2
        if self.match_norm == "lift":
            mass = take_rows(self._walk_mass(tokens, matrix, self._coefficients(order), "patch"), kept)
            match = _ratio(match, jnp.broadcast_to(mass[:, None, :], match.shape))
        return jax.nn.softmax(match, axis=-1) if self.match_norm == "softmax" else match

    def _walk_block(
        self, matrix: Float[Array, "B T T"], kept: Int[Array, "B K"], removed: Int[Array, "B R"], order: int
    ) -> Float[Array, "B R K"]:
        """Return the entries `[B, R, K]` of the walk polynomial; row and column indices include the prefix."""
        rows = walks.walk_rows(matrix, take_rows(matrix, removed), self._coefficients(order))
        all_rows = jnp.broadcast_to(jnp.arange(removed.shape[1], dtype=jnp.int32), removed.shape)
        return take_block(rows, all_rows, kept)

    def _fuse(self, inputs: FusionInputs) -> Plan:
        """Return the plan that fuses each removed token into its best matches."""
        match, size = require_match(inputs), inputs.tokens.size
        if self.fuse == "hard":
            share = best_share(match)
        else:
            share = soft_share(match, self.temperature, self.top_m if self.fuse == "topm" else None)
        mass = {"mean": jnp.ones_like(size), "score": inputs.score}.get(self.fuse_weight, size)
        discount = jnp.swapaxes(match, 1, 2) if self.fuse_weight == "connectivity" else None
        return plans.average(inputs.kept, inputs.removed, share, mass, discount=discount)

    def _pool(self, inputs: FusionInputs) -> Plan:
        """Return the plan that fuses all removed tokens into one, weighted by dominance or the mean connectivity."""
        tokens, signals = inputs.tokens, self._stop_gradient(inputs.signals)
        if self.balance < 1:
            weight = self.dominance_score(tokens, signals)
        else:
            weight = self.connectivity(tokens, signals) / tokens.origin.shape[1]
        return pool(inputs, take_rows(weight, inputs.removed))

    def _score_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of the score: K vector products with the transition matrix, and dominance."""
        steps = self.order if self.balance > 0 else 0
        return (steps + (self._dominance_steps if self.balance < 1 else 0)) * context.tokens**2

    @property
    def _dominance_steps(self) -> int:
        """Number of vector products with the transition matrix that dominance takes."""
        return {"gap": 1, "cls_walk": self.order}.get(self.dominance, 0)

    def _pool_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of the fused token and its weights.

        The weights are counted again, although compilers reuse those of the score.
        """
        steps = self._dominance_steps if self.balance < 1 else self.order
        return pool_macs(context) + steps * context.tokens**2

    def _match_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of K - 1 thin products and, with `"lift"`, of the mass that reaches every token."""
        order = self.match_order or self.order
        steps = (order - 1) * context.removed * (2 if self.direction == "both" else 1)
        return (steps + (order if self.match_norm == "lift" else 0)) * context.tokens**2
