"""Finetune GTP and TC-ViT on Fashion-MNIST at half of the MACs, with and without self-distillation, and print a table.

python tools/fashion_finetune.py --data PATH --weights runs/fashion_dense_{seed} --out runs/finetune

`--weights` are dense models of `configs/fashion_dense.py`, one for each seed. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tcvit_jax import atomic
from tcvit_jax.command import Command, PathArgument

ROOT = Path(__file__).parent.parent
RECIPES = {"labels alone": "fashion_finetune", "with self-distillation": "fashion_selfdistill"}
REDUCERS = {"GTP": "gtp", "TC-ViT": "tcvit"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--data", required=True, action=PathArgument, help="image folder of Fashion-MNIST")
    parser.add_argument(
        "--weights", required=True, action=PathArgument, help="checkpoint of the dense model, with {seed} in its path"
    )
    parser.add_argument("--out", default="runs/finetune", action=PathArgument, help="directory of the runs")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, separated by commas")


def run(flags: argparse.Namespace) -> None:
    """Train the missing runs and print the table."""
    seeds = [int(seed) for seed in flags.seeds.split(",")]
    print(f"| reducer | recipe | top-1 by seed | mean | seconds per run |\n|{'---|' * 5}")
    for label, reducer in REDUCERS.items():
        for recipe, config in RECIPES.items():
            summaries = [run_summary(flags, config, reducer, seed) for seed in seeds]
            accuracies = [100 * summary["top1"] for summary in summaries]
            seconds = statistics.median(summary["wall_seconds"] for summary in summaries)
            by_seed = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
            mean = statistics.mean(accuracies)
            print(f"| {label} | {recipe} | {by_seed} | {mean:.2f} % | {seconds:.0f} |", flush=True)


def run_summary(flags: argparse.Namespace, config: str, reducer: str, seed: int) -> dict[str, Any]:
    """Return the summary of one run with its wall time. The run is trained if it has not finished yet.

    Args:
        flags: The parsed command line.
        config: The name of the configuration file, without suffix.
        reducer: The name of the reducer in configurations.
        seed: The seed of the run.

    Returns:
        The contents of the run's `summary.json`, and `wall_seconds`.
    """
    run = Path(flags.out) / f"{config}_{reducer}_{seed}"
    timing = run / "wall.json"
    if not timing.is_file():
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable, "train.py", "--config", f"configs/{config}.py", f"--config.data.dir={flags.data}",
                f"--config.weights={flags.weights.format(seed=seed)}", f"--config.reducer.name={reducer}",
                f"--config.seed={seed}", f"--config.workdir={run.absolute()}",
            ],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        atomic.write_json(timing, {"wall_seconds": time.perf_counter() - start})
    return {**json.loads((run / "summary.json").read_text()), **json.loads(timing.read_text())}


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
