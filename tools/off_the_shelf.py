"""Print the accuracy of a dense model condensed without training, one row per method and one column per budget.

python tools/off_the_shelf.py runs/digits_dense runs/fashion_dense > table.md

Budgets are fractions of the dense model's MACs and include the reduction overhead. Every block removes the same
fraction of its tokens (`schedule.budget(family="keep_rate")`). Differences to the dense model are paired, on the same
images, and have standard errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import checkpoints

from tcvit_jax.command import Command, PathArgument

if TYPE_CHECKING:
    import numpy as np

    import tcvit_jax as tc
    from tcvit_jax.data import Batch
    from tcvit_jax.models import ViT

BUDGETS = (0.75, 0.6, 0.5)


def methods() -> dict[str, tc.GTP | tc.TCViT]:
    """Return the compared reducers by the names of their rows."""
    import tcvit_jax as tc

    return {
        "GTP": tc.GTP(),
        "GTP, alpha 0.4": tc.GTP(alpha=0.4),
        "GTP, spatial graph": tc.GTP(graph="spatial"),
        "GTP, no propagation": tc.GTP(propagation="none"),
        "GTP, one mean token": tc.GTP(propagation="mean"),
        "random, dropped": tc.GTP(score="random", propagation="none"),
        "TC-ViT": tc.TCViT(),
        "order 1": tc.TCViT(order=1),
        "order 4": tc.TCViT(order=4),
        "order 8": tc.TCViT(order=8),
        "score order 2, match order 1": tc.TCViT(order=2, match_order=1),
        "score order 8, match order 1": tc.TCViT(order=8, match_order=1),
        "score order 1, match order 8": tc.TCViT(order=1, match_order=8),
        "order 8, Katz": tc.TCViT(order=8, walk="katz"),
        "order 1, lift": tc.TCViT(order=1, match_norm="lift"),
        "order 2, lift": tc.TCViT(match_norm="lift"),
        "order 8, lift": tc.TCViT(order=8, match_norm="lift"),
        "soft": tc.TCViT(fuse="soft"),
        "soft, temperature 0.25": tc.TCViT(fuse="soft", temperature=0.25),
        "top-4": tc.TCViT(fuse="topm"),
        "single": tc.TCViT(fuse="single"),
        "drop": tc.TCViT(fuse="drop"),
        "dominance alone": tc.TCViT(balance=0.0),
        "connectivity alone": tc.TCViT(balance=1.0),
        "connectivity alone, lift": tc.TCViT(balance=1.0, match_norm="lift"),
        "keys not weighted by size": tc.TCViT(proportional_attention=False),
    }


def condense(model: ViT, reducer: tc.GTP | tc.TCViT, macs_fraction: float) -> ViT:
    """Return the model condensed to a fraction of its MACs."""
    import tcvit_jax as tc

    budget = tc.schedule.budget(macs_fraction * model.cost().total / 1e9, family="keep_rate")
    return tc.condense(model, reducer, budget)


def correct_predictions(model: ViT, evaluation: checkpoints.EvaluationModel, batches: Iterable[Batch]) -> np.ndarray:
    """Return whether the top-1 prediction of each image is correct, bool `[images]`."""
    import numpy as np

    from tcvit_jax.evaluation import make_rank_step
    from tcvit_jax.sharding import data_mesh, place

    mesh = data_mesh()
    step = make_rank_step(model, evaluation.preprocessing, mesh)
    ranks = [step(evaluation.variables, place(batch, mesh))[0][batch["mask"] > 0] for batch in batches]
    return np.concatenate(ranks) < 1


def rows(checkpoint: str) -> Iterator[str]:
    """Yield the lines of the table of one checkpoint."""
    import numpy as np

    evaluation = checkpoints.load(checkpoint)
    model, batches = evaluation.model, list(evaluation.data.batches())
    dense = correct_predictions(model, evaluation, batches)
    yield f"| dense, {len(dense)} images | " + " | ".join(f"{fraction:.0%}" for fraction in BUDGETS) + " |"
    yield "|---" * (1 + len(BUDGETS)) + "|"
    yield f"| **{dense.mean():.2%}** |" + " |" * len(BUDGETS)
    for name, reducer in methods().items():
        cells: list[str] = []
        for fraction in BUDGETS:
            change = correct_predictions(condense(model, reducer, fraction), evaluation, batches).astype(float) - dense
            error = change.std() / np.sqrt(len(change))
            cells.append(f"{dense.mean() + change.mean():.2%} ({100 * change.mean():+.2f} ± {100 * error:.2f})")
        yield f"| {name} | " + " | ".join(cells) + " |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "checkpoints", nargs="+", action=PathArgument, help="directories of training runs of dense models"
    )


def run(flags: argparse.Namespace) -> None:
    """Print a table for each checkpoint."""
    for checkpoint in flags.checkpoints:
        for row in rows(checkpoint):
            print(row, flush=True)
        print()


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
