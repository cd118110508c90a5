"""Accuracy of a dense model condensed without any training, one line per method, one column per budget.

python docs/off_the_shelf.py runs/digits_dense runs/fashion_dense > table.md

Budgets are parts of the dense model's multiply-adds, the method's own work counted; the same part of its tokens leaves
every block (`schedule.budget(shape="keep_rate")`). Differences are paired, on the same images, with standard errors.
"""

import argparse
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict
from tcvit_jax.training.experiment import build_eval_data

import tcvit_jax as tc
from tcvit_jax.evaluation import label_rank
from tcvit_jax.models import ViT, condense
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.ops.images import normalise

BUDGETS = (0.75, 0.6, 0.5)
METHODS = {
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


def at_budget(model: ViT, reducer: tc.GTP | tc.TCViT, share: float) -> ViT:
    """The same model with `share` of its multiply-adds."""
    budget = tc.schedule.budget(share * model.cost().total / 1e9, shape="keep_rate")
    return condense(model, reducer, budget)


def right(model: ViT, variables: dict, batches: list[dict], shown: Preprocessing) -> np.ndarray:
    """For every image whether the label is found, bool."""

    @jax.jit
    def step(image: jax.Array, label: jax.Array) -> jax.Array:
        return label_rank(model.apply(variables, normalise(image, shown.mean, shown.std)), label) < 1

    found = [np.asarray(step(batch["image"], batch["label"]))[batch["mask"] > 0] for batch in batches]
    return np.concatenate(found)


def rows(checkpoint: str) -> Iterator[str]:
    """The table of one checkpoint, line by line."""
    model, variables, meta = tc.load(checkpoint)
    shown = Preprocessing.from_config(meta["preprocessing"])
    batches = list(build_eval_data(ConfigDict(meta["config"]), model, shown).batches())
    dense = right(model, variables, batches, shown)
    yield f"| dense, {len(dense)} images | " + " | ".join(f"{share:.0%}" for share in BUDGETS) + " |"
    yield "|---" * (1 + len(BUDGETS)) + "|"
    yield f"| **{dense.mean():.2%}** |" + " |" * len(BUDGETS)
    for name, reducer in METHODS.items():
        cells = []
        for share in BUDGETS:
            change = right(at_budget(model, reducer, share), variables, batches, shown).astype(float) - dense
            error = change.std() / np.sqrt(len(change))
            cells.append(f"{dense.mean() + change.mean():.2%} ({100 * change.mean():+.2f} ± {100 * error:.2f})")
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """A table per checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    for checkpoint in parser.parse_args().checkpoints:
        for row in rows(checkpoint):
            print(row, flush=True)
        print()


if __name__ == "__main__":
    main()
