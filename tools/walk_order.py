"""Count the destinations of removed tokens for walks of increasing order in TC-ViT's match.

python tools/walk_order.py runs/fashion_dense docs/walk-order.png

The attention comes from one forward pass over real images, condensed to 60 % of the MACs with walks of order 1. All
walks are planned on this attention, so that results differ only by the walk.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import checkpoints

from tcvit_jax.command import Command, PathArgument

if TYPE_CHECKING:
    import tcvit_jax as tc
    from tcvit_jax.measure.diagnosis import Reduction

ORDERS = (1, 2, 4, 8, 16, 32)
WALKS: dict[str, dict[str, Any]] = {
    "power": {},
    "power, lift": {"match_norm": "lift"},
    "lazy": {"walk": "lazy"},
    "cumulative": {"walk": "cumulative"},
    "Katz, gamma 0.5": {"walk": "katz"},
}


def destinations(reductions: list[Reduction], reducer: tc.TCViT) -> tuple[float, float]:
    """Return the number of distinct destinations and the size of the largest cluster.

    Args:
        reductions: The tokens and signals of each block that removes tokens.
        reducer: The method that plans on them.

    Returns:
        Both as fractions of the removed tokens, averaged over blocks.
    """
    import numpy as np

    from tcvit_jax.measure.diagnosis import count_destinations

    fractions: list[tuple[float, float]] = []
    for reduction in reductions:
        tokens, signals, plan = reduction.tokens, reduction.signals, reduction.plan
        new_plan = reducer.plan(tokens, signals, plan.kept.shape[1])
        distinct, largest, _ = count_destinations(np.asarray(new_plan.target))
        fractions.append((distinct / plan.removed.shape[1], largest / plan.removed.shape[1]))
    distinct, largest = np.mean(fractions, axis=0)
    return float(distinct), float(largest)


def second_eigenvalues(reductions: list[Reduction]) -> list[float]:
    """Return the modulus of the second eigenvalue of each block's walk, averaged over images.

    It is the factor by which each further step of the walk reduces the dependence on the start.
    """
    import numpy as np

    maps = [np.asarray(reduction.signals.map, np.float64) for reduction in reductions]
    return [float(np.sort(np.abs(np.linalg.eigvals(walk)), axis=-1)[:, -2].mean()) for walk in maps]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("checkpoint", action=PathArgument, help="directory of a training run of a dense model")
    parser.add_argument("picture", action=PathArgument, help="path of the picture")
    parser.add_argument("--images", type=int, default=500, help="number of images")


def run(flags: argparse.Namespace) -> None:
    """Print the table and draw the picture."""
    report(checkpoints.load(flags.checkpoint), flags.picture, flags.images)


def report(evaluation: checkpoints.EvaluationModel, path: str, count: int) -> None:
    """Print the table and draw the picture.

    Args:
        evaluation: The dense model and its evaluation images.
        path: The path of the picture.
        count: The number of images, spread over the split.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    import tcvit_jax as tc
    from tcvit_jax import atomic

    dense, reducer = evaluation.model, tc.TCViT(order=1)
    budget = tc.schedule.budget(0.6 * dense.cost().total / 1e9, family="keep_rate")
    model = tc.condense(dense, reducer, budget)
    images = evaluation.normalize(evaluation.pixels(_spread(len(evaluation.data.source), count)))
    reductions = tc.measure.reductions(model, evaluation.variables, images)
    print(tc.diagnose(model, evaluation.variables, images), "\n")
    print("second eigenvalue, by block:", ", ".join(f"{value:.2f}" for value in second_eigenvalues(reductions)), "\n")

    print("| match | " + " | ".join(f"K = {order}" for order in ORDERS) + " |\n" + "|---" * (1 + len(ORDERS)) + "|")
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, fields in WALKS.items():
        fractions = [destinations(reductions, replace(reducer, match_order=order, **fields)) for order in ORDERS]
        print(f"| {name} | " + " | ".join(f"{distinct:.0%} ({largest:.0%})" for distinct, largest in fractions) + " |")
        axis.plot(ORDERS, [100 * distinct for distinct, _ in fractions], marker="o", label=name)
    axis.set(xlabel="walk order K of the match", ylabel="distinct destinations,\n% of removed tokens", ylim=(0, None))
    axis.set_xscale("log", base=2)
    axis.set_xticks(ORDERS, [str(order) for order in ORDERS])
    axis.legend(fontsize=8)
    with atomic.write(path) as draft:
        figure.savefig(draft, dpi=110)


def _spread(total: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices, because a split may be sorted by class."""
    return [total * i // count for i in range(count)]


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
