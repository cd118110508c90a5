"""What a reducer does in every block of a model on real images: where removed tokens go, and how its scores agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.ranking import midranks
from tcvit_jax.reducers import TCViT
from tcvit_jax.tokens import Plan, Tokens


class Reduction(NamedTuple):
    """One block's reduction: the `tokens` and `signals` that were planned from, and the `plan`."""

    block: int
    tokens: Tokens
    signals: Signals
    plan: Plan


@dataclass(frozen=True)
class BlockDiagnosis:
    """Means over the images of one block; `None` where the reducer has no such thing.

    Attributes:
        block: its index.
        removed: how many tokens left.
        destinations: how many different survivors they went to, by the one that got the most of each.
        largest: how many went to the most frequent one.
        lost: the share of them that found no survivor.
        dominance: Spearman's rank correlation of connectivity with dominance, over the patch tokens.
        order: that of connectivity of order 1 with that of the reducer's own order.
    """

    block: int
    removed: int
    destinations: float
    largest: float
    lost: float
    dominance: float | None
    order: float | None


@dataclass(frozen=True)
class Diagnosis:
    """Every block that removes tokens; print it for the table."""

    name: str
    images: int
    blocks: tuple[BlockDiagnosis, ...]

    def __str__(self) -> str:
        heading = ("block", "removed", "destinations", "largest", "lost", "conn~dominance", "order 1~K")
        lines = [f"{self.name}, means over {self.images} images", "".join(f"{word:>15}" for word in heading)]
        for b in self.blocks:
            cells = (
                f"{b.block}", f"{b.removed}", f"{b.destinations:.1f}", f"{b.largest:.1f}", f"{b.lost:.1%}",
                *("-" if value is None else f"{value:.2f}" for value in (b.dominance, b.order)),
            )  # fmt: skip
            lines.append("".join(f"{cell:>15}" for cell in cells))
        return "\n".join(lines)


def reductions(model: ViT, variables: Mapping[str, Any], images: Array | np.ndarray) -> list[Reduction]:
    """What every block of `model` that removes tokens planned, and from what, in the order of the blocks.

    Args:
        model: with a reducer and a schedule that removes some tokens.
        variables: its parameters.
        images: `[B, H, W, C]` float, normalized.

    Raises:
        InputError: the model removes nothing.
    """
    if model.reducer is None or not any(model.removed):
        raise InputError(f"{model.variant} removes no tokens: create it with a reducer and a schedule")
    # With a trace the last block plans too, even where no head reads its patch tokens.
    run = jax.jit(lambda v, x: model.apply(v, x, trace=True, mutable=["intermediates"]))
    _, captured = run(variables, images)
    found = []
    for block in range(model.depth):
        if model.removed[block]:
            (reduction,) = captured["intermediates"][f"blocks_{block}"]["reduction"]
            found.append(Reduction(block, *reduction))
    return found


def diagnose(model: ViT, variables: Mapping[str, Any], images: Array | np.ndarray) -> Diagnosis:
    """Where removed tokens go and how the scores agree, block by block (the questions of TC-ViT's reviewers).

    Args:
        model, variables, images: as for `reductions`.

    Returns:
        A table. Connectivity is TC-ViT's: other reducers have no correlations, nor has a `balance` of 0; one of 1 has
        none with dominance.
    """
    found = reductions(model, variables, images)
    blocks = tuple(_diagnosis(reduction, model.reducer) for reduction in found)
    return Diagnosis(f"{model.variant}, {model.reducer}", len(images), blocks)


def _diagnosis(reduction: Reduction, reducer: Any) -> BlockDiagnosis:
    destinations, largest, lost = count_destinations(np.asarray(reduction.plan.target))
    dominance = order = None
    if isinstance(reducer, TCViT) and reducer.balance > 0:
        connected = reducer.connectivity(reduction.tokens, reduction.signals)
        first = reducer.connectivity(reduction.tokens, reduction.signals, order=1)
        order = rank_correlation(first, connected)
        if reducer.balance < 1:
            dominance_score = reducer.dominance_score(reduction.tokens, reduction.signals)
            dominance = rank_correlation(connected, dominance_score)
    removed = reduction.plan.removed.shape[1]
    return BlockDiagnosis(reduction.block, removed, destinations, largest, lost, dominance, order)


def count_destinations(target: np.ndarray) -> tuple[float, float, float]:
    """Of `target [B, R]`: different destinations, the largest number that share one, and the share with none (-1)."""
    counts = [np.unique(row[row >= 0], return_counts=True)[1] for row in target]
    return (
        float(np.mean([len(count) for count in counts])),
        float(np.mean([count.max(initial=0) for count in counts])),
        float((target < 0).mean()),
    )


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rho of `a` and `b [B, N]`, the mean over rows; ties share a rank, a constant row counts as 0."""
    total = 0.0
    for x, y in zip(np.asarray(midranks(a)), np.asarray(midranks(b)), strict=True):
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            total += float(np.corrcoef(x, y)[0, 1])
    return total / len(a)
