"""Where removed tokens go as walks get longer: `python tools/walk_order.py runs/fashion_dense docs/walk_order.png`.

One forward pass over real images, condensed to 60 % of the multiply-adds by walks of order 1; every other walk is
planned on the very same attention, so that the walk is all that differs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import checkpoints

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


def destinations(found: list[Reduction], reducer: tc.TCViT) -> tuple[float, float]:
    """Distinct destinations and the largest cluster, as parts of the removed tokens, the mean over blocks."""
    import numpy as np

    from tcvit_jax.measure.diagnosis import count_destinations

    parts: list[tuple[float, float]] = []
    for reduction in found:
        tokens, signals, plan = reduction.tokens, reduction.signals, reduction.plan
        again = reducer.plan(tokens, signals, plan.kept.shape[1])
        distinct, largest, _ = count_destinations(np.asarray(again.target))
        parts.append((distinct / plan.removed.shape[1], largest / plan.removed.shape[1]))
    distinct, largest = np.mean(parts, axis=0)
    return float(distinct), float(largest)


def second_eigenvalues(found: list[Reduction]) -> list[float]:
    """Of each block's walk, the mean modulus over images: how much of a token's start one more step remembers."""
    import numpy as np

    maps = [np.asarray(reduction.signals.map, np.float64) for reduction in found]
    return [float(np.sort(np.abs(np.linalg.eigvals(walk)), axis=-1)[:, -2].mean()) for walk in maps]


def main() -> None:
    """Read the flags, print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("picture")
    parser.add_argument("--images", type=int, default=500)
    flags = parser.parse_args()
    report(checkpoints.load(flags.checkpoint), flags.picture, flags.images)


def report(evaluated: checkpoints.Evaluated, path: str, count: int) -> None:
    """Print the table and draw the picture.

    Args:
        evaluated: the dense model and its images.
        path: of the picture.
        count: how many images, spread over the split.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    import tcvit_jax as tc
    from tcvit_jax import atomic

    dense, first = evaluated.model, tc.TCViT(order=1)
    budget = tc.schedule.budget(0.6 * dense.cost().total / 1e9, family="keep_rate")
    model = tc.condense(dense, first, budget)
    images = evaluated.normalize(evaluated.pixels(_spread(len(evaluated.data.source), count)))
    found = tc.measure.reductions(model, evaluated.variables, images)
    print(tc.diagnose(model, evaluated.variables, images), "\n")
    print("second eigenvalue, by block:", ", ".join(f"{value:.2f}" for value in second_eigenvalues(found)), "\n")

    print("| match | " + " | ".join(f"K = {order}" for order in ORDERS) + " |\n" + "|---" * (1 + len(ORDERS)) + "|")
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, switches in WALKS.items():
        parts = [destinations(found, replace(first, match_order=order, **switches)) for order in ORDERS]
        print(f"| {name} | " + " | ".join(f"{distinct:.0%} ({largest:.0%})" for distinct, largest in parts) + " |")
        axis.plot(ORDERS, [100 * distinct for distinct, _ in parts], marker="o", label=name)
    axis.set(
        xlabel="length of the match's walk, K", ylabel="distinct destinations,\n% of removed tokens", ylim=(0, None)
    )
    axis.set_xscale("log", base=2)
    axis.set_xticks(ORDERS, [str(order) for order in ORDERS])
    axis.legend(fontsize=8)
    with atomic.write(path) as draft:
        figure.savefig(draft, dpi=110)


def _spread(total: int, count: int) -> list[int]:
    """`count` indices over all of a split, whose classes may come one after the other."""
    return [total * i // count for i in range(count)]


if __name__ == "__main__":
    main()
