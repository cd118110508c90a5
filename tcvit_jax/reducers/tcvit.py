"""TC-ViT: connectivity-based token condensation (ICLR 2024 submission, OpenReview 8vGXHjuCiq).

The attention map averaged over heads, `W` (rows are queries), is a walk over the tokens; `C_K = W^K` is the
connectivity of order K. Each block, with `s` the sizes and prefix tokens apart,

1. scores every patch token by how much the other patches reach it, `c_i = sum_j C_K[j, i]`, and by its dominance,
   the attention of the class token `d_i = W[cls, i]`; both scale_features to sum to one, `balance * c + (1 - balance) * d`;
2. keeps the highest; and
3. fuses each removed token q into the kept token it reaches most, `argmax_p C_K[q, p]`, by their mean weighted by
   size, `y_p = (s_p x_p + sum_q s_q x_q) / (s_p + sum_q s_q)`.

The paper's equations are not public. Where its abstract and reviews leave a choice open, the default is the plainest
one, and the others are switches: they answer the reviewers' questions (`docs/walk_order.md`). No power of `W` is ever
formed (`ops.walks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.errors import InputError, as_integer, unknown
from tcvit_jax.ops import plans, walks
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_block, take_rows
from tcvit_jax.ops.ranking import midranks
from tcvit_jax.reducers.base import Reducer, requirement
from tcvit_jax.reducers.fusions import DROP, average_macs, best_share, pool, pool_macs, require_match, soft_share
from tcvit_jax.reducers.parts import BlockContext, Fusion, FusionInputs, Match, Parts, Score
from tcvit_jax.tokens import Plan, Tokens


def _ratio(x: Float[Array, ...], by: Float[Array, ...]) -> Float[Array, ...]:
    """`x / by`, and 0 where `by` is 0."""
    return jnp.where(by > 0, x / jnp.where(by > 0, by, 1), 0)


# How connectivity and dominance, each [B, N], are made comparable before they are weighed.
SCORE_NORMS: dict[str, Callable[[Float[Array, "B N"]], Float[Array, "B N"]]] = {
    "sum": lambda x: _ratio(x, x.sum(-1, keepdims=True)),
    "none": lambda x: x,
    "minmax": lambda x: _ratio(x - x.min(-1, keepdims=True), x.max(-1, keepdims=True) - x.min(-1, keepdims=True)),
    "zscore": lambda x: _ratio(x - x.mean(-1, keepdims=True), x.std(-1, keepdims=True)),
    "rank": midranks,
}
# The fusions that read the match.
_MATCHING = ("hard", "soft", "topm")
OPTIONS = {
    "walk": tuple(walks.WALKS),
    "fuse": (*_MATCHING, "drop", "single"),
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
        order: K, the length of the walks that score tokens.
        match_order: the length of the walks that find a removed token's destination; None for `order`. Long walks
            forget where they started, so that a large one sends every token to the same place.
        balance: the weight of connectivity; dominance gets the rest. 1 needs no class token.
        walk, gamma: `"power"`, `"cumulative"`, `"katz"` or `"lazy"` (`ops.walks.coefficients`); `gamma` is Katz's.
        fuse: what becomes of a removed token: `"hard"`, all of it goes to its best match; `"soft"`, to every kept
            token in proportion to the match; `"topm"`, to the `top_m` best in proportion; `"drop"`, nowhere;
            `"single"`, all removed tokens become one more behind the kept ones, weighted by dominance as it is, like
            EViT's (by the mean connectivity where `balance` is 1), and a patch token like others from then on.
        temperature: of soft and top-m alone: shares go by `match ** (1 / temperature)`; towards 0 they become hard.
        match_norm: `"none"`; `"lift"`, the match over the mass that reaches the kept token from all patches, so that
            what everybody reaches is no better than the rest; `"softmax"` over the kept tokens.
        top_m: of top-m fusion.
        score_norm: how connectivity and dominance are made comparable: `"sum"` to one, `"none"`, `"minmax"` to
            [0, 1], `"zscore"`, or `"rank"`, how many tokens each is above.
        dominance: `"cls"`, the class token's attention (with a distillation token, the mean of both);
            `"cls_values"`, that times the length of the value (as ATS); `"cls_walk"`, the class token's row of `C_K`;
            `"gap"`, the mean attention of all patches, which needs no class token.
        heads: how the map of all heads becomes `W`: their `"mean"`, or their `"max"` scale_features to sum to one by rows.
            Dominance by class attention is the same mean or maximum of the class row of each head, not scale_features.
        graph: walks over all tokens (`"full"`) or over patch tokens alone (`"patch"`).
        self_loops: whether a walk may stay where it is by a token's attention to itself.
        renormalize: whether rows that lost entries to `graph` or `self_loops` are scale_features to sum to one again.
        columns: whose walks count for connectivity: those that start on a `"patch"`, or `"all"`.
        direction: of the match: from the removed token `"to_kept"`, `"from_kept"` ones to it, or `"both"` (their mean).
        fuse_weight: what tokens weigh in a fused mean: their `"size"`; nothing but their share (`"mean"`); their
            `"score"`; or their size times their `"connectivity"` with the kept token. Sizes add up all the same.
        grad_through_soft: whether gradients flow through the weights of the fusion into attention: the shares of soft
            and top-m, and a `fuse_weight` or a single token's weights that are scores.
        proportional_attention, attention_keep: see `Reducer`.
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
        """Refuse names nobody knows, walks without a step and weights that are none."""
        super().__post_init__()
        for name, options in OPTIONS.items():
            if getattr(self, name) not in options:
                raise unknown(name, getattr(self, name), options)
        for name in ("order", "match_order"):
            value = getattr(self, name)
            if value is not None and as_integer(name, value) < 1:
                raise InputError(f"{name}={value} is no walk: the shortest has 1 step")
        if not 0 <= self.balance <= 1:
            raise InputError(f"balance={self.balance} is not between 0 (dominance alone) and 1 (connectivity alone)")
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma={self.gamma} is not between 0 (order 1) and 1 (no discount)")
        if not self.temperature > 0:
            raise InputError(f"temperature={self.temperature} is not positive: use fuse='hard' for its limit")
        if self.top_m < 1:
            raise InputError(f"top_m={self.top_m} fuses into no token: use fuse='drop'")
        if self.score_norm == "zscore" and self.fuse_weight == "score":
            raise InputError(
                "fuse_weight='score' needs scores that are not negative, and score_norm='zscore': use 'sum'"
            )
        if self.dominance == "cls_walk" and self.graph == "patch" and self.balance < 1:
            raise InputError("dominance='cls_walk' starts on the class token, and graph='patch': use graph='full'")

    @property
    def parts(self) -> Parts:
        """Representative score, connectivity, and the fusion by its name."""
        needs_class_token = self.balance < 1 and self.dominance != "gap"
        score = Score(self.rank, self._score_signals, self._score_macs, needs_class_token)
        if self.fuse not in _MATCHING:
            single = Fusion(self._pool, "propagate", needs_match=False, extra_tokens=1, macs=self._pool_macs)
            return Parts(score, None, DROP if self.fuse == "drop" else single)
        match = Match(self.similarity, (self._map,), self._match_macs)
        return Parts(
            score, match, Fusion(self._fuse, "merge", is_soft=self.fuse in ("soft", "topm"), macs=average_macs)
        )

    def inactive_fields(self) -> Mapping[str, str]:
        """Fields of parts that are weighed with 0, of other fusions and of other walks."""
        matches = self.fuse in _MATCHING
        walks_in_dominance = self.balance < 1 and self.dominance == "cls_walk"
        walks_at_all = self.balance > 0 or walks_in_dominance or matches
        takes_chain = walks_at_all or (self.balance < 1 and self.dominance == "gap")
        weighs_by_attention = self.fuse_weight in ("score", "connectivity") or self.fuse != "hard"
        matching = requirement("fuse", *_MATCHING)
        walking = f"balance > 0 or dominance='cls_walk' or {matching}"
        needs = {
            "order": (
                self.balance > 0 or walks_in_dominance or (matches and self.match_order is None),
                f"balance > 0 or dominance='cls_walk'{' or match_order=None' if matches else ''}",
            ),
            "match_order": (matches, matching),
            "walk": (walks_at_all, walking),
            "gamma": (walks_at_all and self.walk == "katz", requirement("walk", "katz") if walks_at_all else walking),
            "temperature": (self.fuse in ("soft", "topm"), requirement("fuse", "soft", "topm")),
            "match_norm": (matches, matching),
            "top_m": (self.fuse == "topm", requirement("fuse", "topm")),
            "dominance": (self.balance < 1, "balance < 1"),
            "graph": (takes_chain, f"{walking} or dominance='gap'"),
            "self_loops": (takes_chain, f"{walking} or dominance='gap'"),
            # Rows are scale_features to sum to one after a maximum over heads in any case.
            "renormalize": (
                takes_chain and self.heads == "mean" and self._loses_entries,
                f"{requirement('heads', 'mean')}, and {requirement('graph', 'patch')} or {requirement('self_loops', False)}"
                if takes_chain
                else f"{walking} or dominance='gap'",
            ),
            # Walks over patch tokens alone start on no other.
            "columns": (
                self.balance > 0 and self.graph == "full",
                requirement("graph", "full") if self.balance > 0 else "balance > 0",
            ),
            "direction": (matches, matching),
            "fuse_weight": (matches, matching),
            "grad_through_soft": (
                self.fuse != "drop" and weighs_by_attention,
                f"{requirement('fuse', 'soft', 'topm', 'single')} or {requirement('fuse_weight', 'score', 'connectivity')}",
            ),
        }
        return {**super().inactive_fields(), **{name: need for name, (is_read, need) in needs.items() if not is_read}}

    @property
    def _map(self) -> str:
        return "map" if self.heads == "mean" else "map_max"

    @property
    def _loses_entries(self) -> bool:
        """Whether rows of the map lose entries to `graph` or `self_loops`."""
        return self.graph == "patch" or not self.self_loops

    @property
    def _score_signals(self) -> tuple[str, ...]:
        """The map for walks, the class row for dominance; neither where nothing reads it."""
        read: list[str] = []
        if self.balance > 0 or self.dominance in ("cls_walk", "gap"):
            read.append(self._map)
        if self.balance < 1 and self.dominance == "cls_values":
            read += ["class_row", "value_norm"]
        elif self.balance < 1 and self.dominance == "cls" and "map" not in read:
            read.append("class_row")
        return tuple(read)

    def transition_matrix(self, tokens: Tokens, signals: Signals) -> Float[Array, "B T T"]:
        """`W [B, T, T]`, by `heads`, `graph`, `self_loops` and `renormalize`."""
        walk = signals.map if self.heads == "mean" else signals.map_max
        assert walk is not None
        row = jnp.arange(walk.shape[-1])
        if self.graph == "patch":
            walk = jnp.where((row >= tokens.prefix)[:, None] & (row >= tokens.prefix), walk, 0)
        if not self.self_loops:
            walk = jnp.where(row[:, None] == row, 0, walk)
        scale = self.heads == "max" or (self.renormalize and self._loses_entries)
        return _ratio(walk, walk.sum(-1, keepdims=True)) if scale else walk

    def connectivity(self, tokens: Tokens, signals: Signals, order: int | None = None) -> Float[Array, "B N"]:
        """How much the others reach each patch token, `[B, N]`, by walks of `order` (None for the reducer's own)."""
        return self._reached(
            tokens, self.transition_matrix(tokens, signals), self._steps(order or self.order), self.columns
        )

    def _reached(
        self, tokens: Tokens, walk: Float[Array, "B T T"], steps: list[float], columns: str
    ) -> Float[Array, "B N"]:
        first = tokens.prefix if columns == "patch" else 0
        start = jnp.broadcast_to(jnp.arange(walk.shape[-1]) >= first, walk.shape[:2]).astype(walk.dtype)
        return walks.walk_mass(walk, start, steps)[:, tokens.prefix :]

    def _steps(self, order: int) -> list[float]:
        return walks.coefficients(self.walk, order, self.gamma)

    def dominance_score(self, tokens: Tokens, signals: Signals) -> Float[Array, "B N"]:
        """How much the image as a whole attends to each patch token, `[B, N]`, by `dominance`."""
        prefix = tokens.prefix
        if self.dominance == "gap":
            # One step as it is, whatever the kind of walk.
            return (
                self._reached(tokens, self.transition_matrix(tokens, signals), [0.0, 1.0], "patch")
                / tokens.origin.shape[1]
            )
        if self.dominance == "cls_walk":
            walk, count = self.transition_matrix(tokens, signals), tokens.class_tokens
            start = jnp.broadcast_to(jnp.arange(walk.shape[-1]) < count, walk.shape[:2]) / count
            return walks.walk_mass(walk, start, self._steps(self.order))[:, prefix:]
        if "class_row" not in self._score_signals:
            # The mean over heads is in the map already.
            assert signals.map is not None
            return signals.map[:, : tokens.class_tokens, prefix:].mean(1)
        row = signals.class_row
        assert row is not None
        if self.dominance == "cls_values":
            assert signals.value_norm is not None
            row = row * signals.value_norm
        return (row.mean(1) if self.heads == "mean" else row.max(1))[:, prefix:]

    def rank(self, tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
        """The representative score `[B, N]` of each patch token; the higher stays."""
        signals, norm = self._constant(signals), SCORE_NORMS[self.score_norm]
        parts: list[Array] = []
        if self.balance > 0:
            parts.append(self.balance * norm(self.connectivity(tokens, signals)))
        if self.balance < 1:
            parts.append((1 - self.balance) * norm(self.dominance_score(tokens, signals)))
        return sum(parts[1:], start=parts[0])

    def _constant(self, signals: Signals) -> Signals:
        """Signals as the gradient sees them."""
        return signals if self.grad_through_soft else jax.lax.stop_gradient(signals)

    def similarity(
        self, tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
    ) -> Float[Array, "B R K"]:
        """How well each removed token matches each kept one, `[B, R, K]`, by walks of `match_order`."""
        walk, order = self.transition_matrix(tokens, self._constant(signals)), self.match_order or self.order
        back = jnp.swapaxes(walk, 1, 2)
        ways = {"to_kept": [walk], "from_kept": [back], "both": [walk, back]}[self.direction]
        found = [self._walked(way, kept + tokens.prefix, removed + tokens.prefix, order) for way in ways]
        match = found[0] if len(found) == 1 else (found[0] + found[1]) / 2
        if self.match_norm == "lift":
            mass = take_rows(self._reached(tokens, walk, self._steps(order), "patch"), kept)
            match = _ratio(match, jnp.broadcast_to(mass[:, None, :], match.shape))
        return jax.nn.softmax(match, axis=-1) if self.match_norm == "softmax" else match

    def _walked(
        self, walk: Float[Array, "B T T"], kept: Int[Array, "B K"], removed: Int[Array, "B R"], order: int
    ) -> Float[Array, "B R K"]:
        """Entries `[B, R, K]` of the walk's polynomial, rows and columns counted with the prefix."""
        rows = walks.walk_rows(walk, take_rows(walk, removed), self._steps(order))
        every = jnp.broadcast_to(jnp.arange(removed.shape[1]), removed.shape)
        return take_block(rows, every, kept)

    def _fuse(self, inputs: FusionInputs) -> Plan:
        """Each removed token into the kept ones it is most connected to."""
        match, size = require_match(inputs), inputs.tokens.size
        if self.fuse == "hard":
            share = best_share(match)
        else:
            share = soft_share(match, self.temperature, self.top_m if self.fuse == "topm" else None)
        mass = {"mean": jnp.ones_like(size), "score": inputs.score}.get(self.fuse_weight, size)
        discount = jnp.swapaxes(match, 1, 2) if self.fuse_weight == "connectivity" else None
        return plans.average(inputs.kept, inputs.removed, share, mass, discount=discount)

    def _pool(self, inputs: FusionInputs) -> Plan:
        """One token of all removed ones, weighted by dominance, or by the mean connectivity."""
        tokens, signals = inputs.tokens, self._constant(inputs.signals)
        if self.balance < 1:
            weight = self.dominance_score(tokens, signals)
        else:
            weight = self.connectivity(tokens, signals) / tokens.origin.shape[1]
        return pool(inputs, take_rows(weight, inputs.removed))

    def _score_macs(self, context: BlockContext) -> int:
        """K vector products with the map."""
        steps = self.order if self.balance > 0 else 0
        return (steps + (self._dominance_steps if self.balance < 1 else 0)) * context.tokens**2

    @property
    def _dominance_steps(self) -> int:
        """Vector products with the map."""
        return {"gap": 1, "cls_walk": self.order}.get(self.dominance, 0)

    def _pool_macs(self, context: BlockContext) -> int:
        """The product, and its weights anew: a compiler finds them to be those of the score."""
        steps = self._dominance_steps if self.balance < 1 else self.order
        return pool_macs(context) + steps * context.tokens**2

    def _match_macs(self, context: BlockContext) -> int:
        """K - 1 thin products, and the mass that reaches every token where the match is relative to it."""
        order = self.match_order or self.order
        steps = (order - 1) * context.removed * (2 if self.direction == "both" else 1)
        return (steps + (order if self.match_norm == "lift" else 0)) * context.tokens**2
