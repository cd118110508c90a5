"""Diagnosis of a reducer on images: destinations of removed tokens and rank correlations of scores, by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from tcvit_jax.errors import requires
from tcvit_jax.models import ViT, check_variables
from tcvit_jax.models.create import check_model
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.ranking import midranks
from tcvit_jax.reducers import TCViT
from tcvit_jax.tokens import Plan, Tokens


class Reduction(NamedTuple):
    """The reduction of one block.

    Attributes:
        block: The index of the block.
        tokens: The tokens before the reduction.
        signals: The attention signals that the plan was computed from.
        plan: The plan.
    """

    block: int
    tokens: Tokens
    signals: Signals
    plan: Plan


@dataclass(frozen=True)
class BlockDiagnosis:
    """Statistics of one block, averaged over images; `None` if they do not apply to the reducer.

    Attributes:
        block: The index of the block.
        removed: The number of removed tokens.
        destinations: The number of different survivors that receive them; the destination of a removed token is the
            survivor with the largest share of it.
        largest_group: The number of removed tokens with the most frequent destination.
        lost_fraction: The fraction of removed tokens without a destination.
        dominance_correlation: Spearman's rank correlation of connectivity and dominance over the patch tokens.
        order_correlation: Spearman's rank correlation of connectivity of order 1 and of the order of the reducer.
    """

    block: int
    removed: int
    destinations: float
    largest_group: float
    lost_fraction: float
    dominance_correlation: float | None
    order_correlation: float | None


@dataclass(frozen=True)
class Diagnosis:
    """Statistics of all blocks that remove tokens; `str` formats them as a table.

    Attributes:
        name: The model and its reducer.
        images: The number of images.
        blocks: The statistics of each block that removes tokens.
    """

    name: str
    images: int
    blocks: tuple[BlockDiagnosis, ...]

    def __str__(self) -> str:
        heading = ("block", "removed", "destinations", "largest group", "lost", "conn~dominance", "order 1~K")
        lines = [f"{self.name}, mean of {self.images} images", "".join(f"{cell:>15}" for cell in heading)]
        for b in self.blocks:
            correlations = (b.dominance_correlation, b.order_correlation)
            cells = (
                f"{b.block}", f"{b.removed}", f"{b.destinations:.1f}", f"{b.largest_group:.1f}",
                f"{b.lost_fraction:.1%}", *("-" if value is None else f"{value:.2f}" for value in correlations),
            )  # fmt: skip
            lines.append("".join(f"{cell:>15}" for cell in cells))
        return "\n".join(lines)


def reductions(model: ViT, variables: Mapping[str, Any], images: Array | np.ndarray) -> list[Reduction]:
    """Return the plan of each block that removes tokens, with its inputs, in the order of the blocks.

    Args:
        model: A model with a reducer and a schedule that removes tokens.
        variables: The variables of the model.
        images: `[B, H, W, C]` float, normalized.

    Raises:
        InputError: The model removes no tokens, or the variables or the images do not fit it.
    """
    check_model(model)
    if model.reducer is None or not any(model.removed):
        raise requires(
            f"diagnosis of {model.variant}", "token removal", "create the model with a reducer and a schedule"
        )
    check_variables(model, variables)
    model.check_images(images)
    # With a trace, the last block plans even if no head reads its patch tokens.
    run = jax.jit(lambda v, x: model.apply(v, x, trace=True, mutable=["intermediates"]))
    _, captured = run(variables, images)
    result = []
    for block in range(model.depth):
        if model.removed[block]:
            (reduction,) = captured["intermediates"][f"blocks_{block}"]["reduction"]
            result.append(Reduction(block, *reduction))
    return result


def diagnose(model: ViT, variables: Mapping[str, Any], images: Array | np.ndarray) -> Diagnosis:
    """Compute the destinations of removed tokens and the rank correlations of scores, by block.

    Correlations are defined for TC-ViT only, and require `balance > 0`; the one with dominance also requires
    `balance < 1`.

    Args:
        model: A model with a reducer and a schedule that removes tokens.
        variables: The variables of the model.
        images: `[B, H, W, C]` float, normalized.

    Returns:
        The statistics of each block that removes tokens.

    Raises:
        InputError: The model removes no tokens, or the variables or the images do not fit it.
    """
    blocks = tuple(_diagnosis(reduction, model.reducer) for reduction in reductions(model, variables, images))
    return Diagnosis(f"{model.variant}, {model.reducer}", len(images), blocks)


def _diagnosis(reduction: Reduction, reducer: Any) -> BlockDiagnosis:
    destinations, largest_group, lost_fraction = count_destinations(np.asarray(reduction.plan.target))
    dominance_correlation = order_correlation = None
    if isinstance(reducer, TCViT) and reducer.balance > 0:
        connectivity = reducer.connectivity(reduction.tokens, reduction.signals)
        first_order = reducer.connectivity(reduction.tokens, reduction.signals, order=1)
        order_correlation = rank_correlation(first_order, connectivity)
        if reducer.balance < 1:
            dominance = reducer.dominance_score(reduction.tokens, reduction.signals)
            dominance_correlation = rank_correlation(connectivity, dominance)
    return BlockDiagnosis(
        block=reduction.block,
        removed=reduction.plan.removed.shape[1],
        destinations=destinations,
        largest_group=largest_group,
        lost_fraction=lost_fraction,
        dominance_correlation=dominance_correlation,
        order_correlation=order_correlation,
    )


def count_destinations(target: np.ndarray) -> tuple[float, float, float]:
    """Count the destinations of removed tokens, averaged over images.

    Args:
        target: `[B, R]`, as in `Plan.target`.

    Returns:
        The number of different destinations, the number of tokens with the most frequent one, and the fraction of
        tokens without a destination (-1).
    """
    counts = [np.unique(row[row >= 0], return_counts=True)[1] for row in target]
    return (
        float(np.mean([len(count) for count in counts])),
        float(np.mean([count.max(initial=0) for count in counts])),
        float((target < 0).mean()),
    )


def rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's rank correlation, averaged over rows; a constant row counts as 0.

    Ties share their mean rank.

    Args:
        a: `[B, N]`.
        b: `[B, N]`.
    """
    total = 0.0
    for x, y in zip(np.asarray(midranks(a)), np.asarray(midranks(b)), strict=True):
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            total += float(np.corrcoef(x, y)[0, 1])
    return total / len(a)
