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
from jaxtyping import Float

from tcvit_jax.errors import check_range, conflicts, out_of_range
from tcvit_jax.ops import plans, walks
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.division import ratio, scale_to_one
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import midranks, ranks
from tcvit_jax.reducers.base import format_requirement
from tcvit_jax.reducers.connectivity import ConnectivityGraph
from tcvit_jax.reducers.fusions import DROP, average_macs, best_share, pool, pool_macs, require_match, soft_share
from tcvit_jax.reducers.parts import BlockContext, Fusion, FusionInputs, Match, Parts, Score
from tcvit_jax.tokens import Plan, Tokens

# Normalizations that make connectivity and dominance, each `[B, N]`, comparable before they are weighted.
SCORE_NORMS: dict[str, Callable[[Float[Array, "B N"]], Float[Array, "B N"]]] = {
    "sum": scale_to_one,
    "none": lambda x: x,
    "minmax": lambda x: ratio(x - x.min(-1, keepdims=True), x.max(-1, keepdims=True) - x.min(-1, keepdims=True)),
    "zscore": lambda x: ratio(x - x.mean(-1, keepdims=True), x.std(-1, keepdims=True)),
    "rank": midranks,
}
# Fusions that need the match.
_MATCH_FUSIONS = ("hard", "soft", "topm")
OPTIONS = {
    **ConnectivityGraph.OPTIONS,
    "selection": ("rank", "cover"),
    "fuse": (*_MATCH_FUSIONS, "drop", "single"),
    "score_norm": tuple(SCORE_NORMS),
    "dominance": ("cls", "cls_lift", "cls_values", "cls_walk", "gap"),
    "fuse_weight": ("size", "mean", "score", "connectivity"),
}


@dataclass(frozen=True, repr=False)
class TCViT(ConnectivityGraph):
    """Connectivity-based token condensation.

    The defaults are the plain form of the paper. On pretrained models with attention sinks,
    `TCViT(affinity="keys", selection="cover", order=1)` is far better (`docs/walk-order.md`).

    Attributes:
        order: See `ConnectivityGraph`, as for the other fields of the graph and its walks.
        match_order: See `ConnectivityGraph`.
        affinity: See `ConnectivityGraph`.
        affinity_temperature: See `ConnectivityGraph`.
        walk: See `ConnectivityGraph`.
        gamma: See `ConnectivityGraph`.
        match_norm: See `ConnectivityGraph`.
        heads: See `ConnectivityGraph`. Dominance by class attention is the same mean or maximum of the class rows,
            without scaling.
        graph: See `ConnectivityGraph`.
        self_loops: See `ConnectivityGraph`.
        renormalize: See `ConnectivityGraph`.
        columns: See `ConnectivityGraph`.
        direction: See `ConnectivityGraph`.
        grad_through_soft: Whether gradients flow into attention through the weights of the fusion: the shares of
            `"soft"` and `"topm"`, and scores used as weights by `fuse_weight` or `"single"`.
        selection: The tokens to keep: `"rank"`, those of the highest score; or `"cover"`, those that the others cover
            least. A token of score `r_i` is covered by `max_j M_ij` over the tokens of higher score (of equal ones, the
            lower index), where M is the match. So a token is removed only if a token that ranks above it can represent
            it, and the most representative token always stays.
        balance: Weight of connectivity, in [0, 1]; dominance has the weight `1 - balance`. 1 needs no class token.
        fuse: The fusion of removed tokens: `"hard"`, into the best match; `"soft"`, into all kept tokens in proportion
            to the match; `"topm"`, into the `top_m` best matches in proportion to the match; `"drop"`, none;
            `"single"`, all removed tokens into one extra token behind the kept ones. The extra token is weighted by
            dominance without normalization, as in EViT (by the mean connectivity if `balance` is 1), and is a regular
            patch token in later blocks.
        temperature: Temperature of `"soft"` and `"topm"`, finite and > 0: shares are proportional to
            `match ** (1 / temperature)` and approach those of `"hard"` as it approaches 0.
        top_m: Number of matches of `"topm"`.
        score_norm: Normalization that makes connectivity and dominance comparable: `"sum"` to one, `"none"`, `"minmax"`
            to [0, 1], `"zscore"`, or `"rank"`, the number of tokens that each token exceeds.
        dominance: `"cls"`, the attention of the class token (with a distillation token, the mean of both);
            `"cls_lift"`, the same divided by the attention that a token receives from all tokens, so that what every
            token attends to, such as an attention sink, is not preferred; `"cls_values"`, the first times the norm of
            the value (as in ATS); `"cls_walk"`, the row of the class token in `p(W)`; `"gap"`, the mean attention of
            all patches, which needs no class token.
        fuse_weight: Weight of each token in a fused mean, in addition to its share: its `"size"`; 1 (`"mean"`); its
            `"score"`; or its size times its `"connectivity"` with the kept token. Sizes are summed in all cases.
        host_share: Least weight of a kept token in the mean with the tokens that are fused into it, in [0, 1). The
            weights of the removed tokens are scaled down where they exceed the rest; sizes are not.
        proportional_attention: See `Reducer`.
        attention_keep: See `Reducer`.
    """

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = OPTIONS
    CLASS_TOKEN_ADVICE: ClassVar[str] = "set balance=1.0 or dominance='gap'"
    SEARCH_SPACE: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "order": (1, 3, 4),
        "balance": (0.0, 0.25, 0.75),
        "match_order": (1,),
    }

    selection: str = "rank"
    balance: float = 0.5
    fuse: str = "hard"
    temperature: float = 1.0
    top_m: int = 4
    score_norm: str = "sum"
    dominance: str = "cls"
    fuse_weight: str = "size"
    host_share: float = 0.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        check_range("balance", self.balance, 0, 1, hint="0 is dominance only, 1 is connectivity only")
        check_range("host_share", self.host_share, 0, 1, excludes_high=True, hint="0 is the plain mean")
        if not 0 < self.temperature < math.inf:
            raise out_of_range("temperature", self.temperature, "finite and > 0", "use fuse='hard' for the limit at 0")
        if self.top_m < 1:
            raise out_of_range("top_m", self.top_m, ">= 1", "use fuse='drop' to drop removed tokens")
        if self.score_norm == "zscore" and self.fuse_weight == "score":
            raise conflicts("fuse_weight='score'", "score_norm='zscore'", "weights must be >= 0; set score_norm='sum'")
        if self.affinity == "meeting" and self.balance > 0:
            raise conflicts("affinity='meeting'", f"balance={self.balance}", "its walks rank nothing; set balance=0.0")
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
        match = Match(self.similarity, self.graph_signals, self._match_macs)
        return Parts(
            score, match, Fusion(self._fuse, "merge", is_soft=self.fuse in ("soft", "topm"), macs=average_macs)
        )

    def inactive_fields(self) -> Mapping[str, str]:
        """Return the inactive fields: those of parts with weight 0, of other fusions and of other graphs."""
        has_dominance, fuses_matches = self.balance < 1, self.fuse in _MATCH_FUSIONS
        uses_match = fuses_matches or self.selection == "cover"
        uses_class_walk = has_dominance and self.dominance == "cls_walk"
        uses_connectivity = self.balance > 0 or uses_match
        uses_walks = uses_connectivity or uses_class_walk
        is_attention = self.affinity == "attention"
        uses_transition_matrix = (
            (uses_connectivity and self.reads_map) or uses_class_walk or (has_dominance and self.dominance == "gap")
        )
        fuse_condition = format_requirement("fuse", *_MATCH_FUSIONS)
        match_condition = f"{fuse_condition} or selection='cover'"
        connectivity_condition = f"balance > 0 or {match_condition}"
        walk_condition = f"{connectivity_condition} or dominance='cls_walk'"
        map_condition = "affinity='attention', 'symmetric' or 'meeting', or dominance='gap' or 'cls_walk'"
        attention_condition = format_requirement("affinity", "attention")
        weighs_by_score = self.fuse == "single" or (fuses_matches and self.fuse_weight == "score")
        weighs_by_graph = weighs_by_score or (
            fuses_matches and (self.fuse != "hard" or self.fuse_weight == "connectivity")
        )
        weighs_by_dominance = weighs_by_score and has_dominance
        # For each field, whether it is active and what it requires.
        conditions = {
            "order": (
                self.balance > 0 or uses_class_walk or (uses_match and self.match_order is None),
                f"balance > 0 or dominance='cls_walk'{' or match_order=None' if uses_match else ''}",
            ),
            "match_order": (uses_match, match_condition),
            "affinity": (uses_connectivity, connectivity_condition),
            "affinity_temperature": (
                uses_connectivity and not self.reads_map,
                format_requirement("affinity", "keys", "features") if uses_connectivity else connectivity_condition,
            ),
            "walk": (uses_walks, walk_condition),
            "gamma": (
                uses_walks and self.walk == "katz",
                format_requirement("walk", "katz") if uses_walks else walk_condition,
            ),
            "temperature": (self.fuse in ("soft", "topm"), format_requirement("fuse", "soft", "topm")),
            "match_norm": (uses_match and is_attention, attention_condition if uses_match else match_condition),
            "top_m": (self.fuse == "topm", format_requirement("fuse", "topm")),
            "dominance": (has_dominance, "balance < 1"),
            "heads": (uses_transition_matrix or has_dominance, map_condition),
            "graph": (uses_transition_matrix, map_condition),
            "self_loops": (uses_transition_matrix, map_condition),
            # After a maximum over heads, rows are scaled to sum to one in any case.
            "renormalize": (
                uses_transition_matrix and self.heads == "mean" and self.loses_entries,
                "heads='mean', and graph='patch' or self_loops=False" if uses_transition_matrix else map_condition,
            ),
            # Walks over patch tokens only start at patch tokens.
            "columns": (
                self.balance > 0 and self.graph == "full" and is_attention,
                f"graph='full' and {attention_condition}" if self.balance > 0 else "balance > 0",
            ),
            "direction": (uses_match and is_attention, attention_condition if uses_match else match_condition),
            "fuse_weight": (fuses_matches, fuse_condition),
            "host_share": (fuses_matches, fuse_condition),
            # Keys and features are constants for the gradient.
            "grad_through_soft": (
                weighs_by_graph and (self.reads_map or weighs_by_dominance),
                format_requirement("affinity", "attention", "symmetric", "meeting")
                if weighs_by_graph
                else " or ".join(
                    (
                        format_requirement("fuse", "soft", "topm", "single"),
                        format_requirement("fuse_weight", "score", "connectivity"),
                    )
                ),
            ),
        }
        inactive = {name: condition for name, (is_active, condition) in conditions.items() if not is_active}
        return {**super().inactive_fields(), **inactive}

    @property
    def _score_signals(self) -> tuple[str, ...]:
        """The signals of the graph, if connectivity is part of the score, and those of dominance."""
        signals: list[str] = []
        if self._scores_by_graph:
            signals += self.graph_signals
        if self.balance < 1 and self.dominance in ("cls_walk", "gap"):
            signals.append(self.map_signal)
        elif self.balance < 1 and self.dominance == "cls_values":
            signals += ["class_row", "value_norm"]
        elif self.balance < 1 and self.dominance == "cls_lift":
            signals += ["class_row", "received"]
        elif self.balance < 1 and "map" not in signals:
            signals.append("class_row")
        return tuple(dict.fromkeys(signals))

    def dominance_score(self, tokens: Tokens, signals: Signals) -> Float[Array, "B N"]:
        """Return the dominance of each patch token, `[B, N]`, as defined by `dominance`."""
        prefix = tokens.prefix
        if self.dominance == "gap":
            # A single step, regardless of the kind of walk.
            return (
                self.walk_mass(tokens, self.transition_matrix(tokens, signals), [0.0, 1.0], "patch")
                / tokens.origin.shape[1]
            )
        if self.dominance == "cls_walk":
            matrix, count = self.transition_matrix(tokens, signals), tokens.class_tokens
            is_start = jnp.broadcast_to(jnp.arange(matrix.shape[-1], dtype=jnp.int32) < count, matrix.shape[:2])
            start = is_start.astype(jnp.float32) / count
            return walks.walk_mass(matrix, start, self.coefficients(self.order))[:, prefix:]
        if "class_row" not in self._score_signals:
            # The map already contains the mean over heads.
            assert signals.map is not None
            return signals.map[:, : tokens.class_tokens, prefix:].mean(1)
        row = signals.class_row
        assert row is not None
        if self.dominance == "cls_values":
            assert signals.value_norm is not None
            row = row * signals.value_norm
        dominance = self._over_heads(row)[:, prefix:]
        if self.dominance == "cls_lift":
            assert signals.received is not None
            dominance = ratio(dominance, self._over_heads(signals.received)[:, prefix:])
        return dominance

    def _over_heads(self, x: Float[Array, "B H T"]) -> Float[Array, "B T"]:
        """Return the mean or the maximum over heads, as defined by `heads`."""
        return x.mean(1) if self.heads == "mean" else x.max(1)

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """Return the score of each patch token, `[B, N]`, as defined by `selection`; the highest are kept."""
        signals = self.stop_gradient(signals)
        graph = self.graph_matrix(tokens, signals) if self._scores_by_graph else None
        score = self._representative_score(tokens, signals, graph)
        if self.selection == "rank":
            return score
        assert graph is not None
        batch, patches = score.shape
        rows = jnp.broadcast_to(jnp.arange(patches, dtype=jnp.int32), (batch, patches))
        match = jax.lax.stop_gradient(self.match_on(tokens, graph, rows, rows))
        # `ranks` orders equal scores by their index, so that one of two equal tokens covers the other.
        position = ranks(jax.lax.optimization_barrier(score))
        is_above = position[:, None, :] < position[:, :, None]
        return -jnp.where(is_above, match, -jnp.inf).max(-1)

    def representative_score(self, tokens: Tokens, signals: Signals) -> Float[Array, "B N"]:
        """Return the weighted sum of connectivity and dominance of each patch token, `[B, N]`."""
        signals = self.stop_gradient(signals)
        graph = self.graph_matrix(tokens, signals) if self.balance > 0 else None
        return self._representative_score(tokens, signals, graph)

    def _representative_score(
        self, tokens: Tokens, signals: Signals, graph: Float[Array, "B _ _"] | None
    ) -> Float[Array, "B N"]:
        norm, parts = SCORE_NORMS[self.score_norm], list[Array]()
        if self.balance > 0:
            assert graph is not None
            parts.append(self.balance * norm(self.connectivity_on(tokens, graph, self.order)))
        if self.balance < 1:
            parts.append((1 - self.balance) * norm(self.dominance_score(tokens, signals)))
        return sum(parts[1:], start=parts[0])

    def _fuse(self, inputs: FusionInputs) -> Plan:
        """Return the plan that fuses each removed token into its best matches."""
        match, size = require_match(inputs), inputs.tokens.size
        if self.fuse == "hard":
            share = best_share(match)
        else:
            share = soft_share(match, self.temperature, self.top_m if self.fuse == "topm" else None)
        mass = size
        if self.fuse_weight == "mean":
            mass = jnp.ones_like(size)
        elif self.fuse_weight == "score":
            is_rank = self.selection == "rank"
            mass = inputs.score if is_rank else self.representative_score(inputs.tokens, inputs.signals)
        discount = jnp.swapaxes(match, 1, 2) if self.fuse_weight == "connectivity" else None
        if self.host_share > 0:
            # The largest mass that leaves the kept token its share of the mean.
            limit = take_rows(mass, inputs.kept) * (1 - self.host_share) / self.host_share
            weight = share if discount is None else share * discount
            incoming = (weight * take_rows(mass, inputs.removed)[:, None, :]).sum(-1)
            scale = jnp.where(incoming > limit, ratio(limit, incoming), 1)[:, :, None]
            discount = scale if discount is None else discount * scale
        return plans.average(inputs.kept, inputs.removed, share, mass, discount=discount)

    def _pool(self, inputs: FusionInputs) -> Plan:
        """Return the plan that fuses all removed tokens into one, weighted by dominance or the mean connectivity."""
        tokens, signals = inputs.tokens, self.stop_gradient(inputs.signals)
        if self.balance < 1:
            weight = self.dominance_score(tokens, signals)
        else:
            weight = self.connectivity(tokens, signals) / tokens.origin.shape[1]
        return pool(inputs, take_rows(weight, inputs.removed))

    def _score_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of graph, connectivity, dominance and, with `"cover"`, the match of all pairs."""
        affinity = self.affinity_macs(context) if self._scores_by_graph else 0
        connectivity = self.connectivity_macs(context) if self.balance > 0 else 0
        dominance = self._dominance_steps * context.tokens**2 if self.balance < 1 else 0
        cover = self.match_macs(context, context.patches) if self.selection == "cover" else 0
        return affinity + connectivity + dominance + cover

    def _match_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of the graph and the match of removed tokens.

        Those of the graph are counted again, although compilers reuse it.
        """
        return self.affinity_macs(context) + self.match_macs(context, context.removed)

    @property
    def _scores_by_graph(self) -> bool:
        """Whether the score reads the graph."""
        return self.balance > 0 or self.selection == "cover"

    @property
    def _dominance_steps(self) -> int:
        """Number of vector products with the transition matrix that dominance takes."""
        return {"gap": 1, "cls_walk": self.order}.get(self.dominance, 0)

    def _pool_macs(self, context: BlockContext) -> int:
        """Return the multiply-adds of the fused token and its weights.

        The weights are counted again, although compilers reuse those of the score.
        """
        weight = self._dominance_steps * context.tokens**2
        if self.balance == 1:
            weight = self.affinity_macs(context) + self.connectivity_macs(context)
        return pool_macs(context) + weight
