"""The table of finetunes on Fashion-MNIST: GTP and TC-ViT at half of the multiply-adds, without and with a teacher.

python tools/fashion_finetune.py --data PATH --weights runs/fashion_dense_{seed} --out runs/finetune

`--weights` are dense models of `configs/fashion_dense.py`, one for each seed. Runs that are finished are not run again.
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

ROOT = Path(__file__).parent.parent
RECIPES = {"labels alone": "fashion_finetune", "with self-distillation": "fashion_selfdistill"}
REDUCERS = {"GTP": "gtp", "TC-ViT": "tcvit"}


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the image folder")
    parser.add_argument("--weights", required=True, help="with {seed} in it")
    parser.add_argument("--out", default="runs/finetune")
    parser.add_argument("--seeds", default="0,1,2")
    flags = parser.parse_args()
    seeds = [int(seed) for seed in flags.seeds.split(",")]
    print(f"| reducer | recipe | top-1 by seed | mean | seconds a run |\n|{'---|' * 5}")
    for label, reducer in REDUCERS.items():
        for recipe, config in RECIPES.items():
            found = [finished(flags, config, reducer, seed) for seed in seeds]
            tops = [100 * summary["top1"] for summary in found]
            seconds = statistics.median(summary["wall_seconds"] for summary in found)
            each = ", ".join(f"{top:.2f}" for top in tops)
            print(f"| {label} | {recipe} | {each} | {statistics.mean(tops):.2f} % | {seconds:.0f} |", flush=True)


def finished(flags: argparse.Namespace, config: str, reducer: str, seed: int) -> dict[str, Any]:
    """The summary of one run, with its wall time, which is trained if there is none yet."""
    run = Path(flags.out) / f"{config}_{reducer}_{seed}"
    record = run / "wall.json"
    if not record.is_file():
        start = time.perf_counter()
        subprocess.run(
            [
                sys.executable, "train.py", "--config", f"configs/{config}.py", f"--config.data.dir={flags.data}",
                f"--config.weights={flags.weights.format(seed=seed)}", f"--config.reducer.name={reducer}",
                f"--config.seed={seed}", f"--config.workdir={run.absolute()}",
            ],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        atomic.write_json(record, {"wall_seconds": time.perf_counter() - start})
    return {**json.loads((run / "summary.json").read_text()), **json.loads(record.read_text())}


if __name__ == "__main__":
    main()
