"""Measure what the verification of a checkpoint adds to loading it.

python tools/load_time.py --model deit_small_patch16_224 --rounds 5

A checkpoint of a run, with random weights and optimizer state, is written to a temporary directory. Each round loads it
in a new process, as `eval.py` does, and then once more in the same process. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command

# The rounds are processes, so that nothing is traced or imported before the first load.
ROUND = """
import sys, time
from pathlib import Path
import jax
import tcvit_jax as tc
from tcvit_jax import manifest
jax.devices()
folder = Path(sys.argv[1]) / "checkpoints" / "1"
for measure in (lambda: tc.load(folder), lambda: tc.load(folder), lambda: manifest.find_damage(folder)):
    start = time.perf_counter()
    measure()
    print(time.perf_counter() - start)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--model", default="deit_small_patch16_224", help="name of the model")
    parser.add_argument("--rounds", type=int, default=5, help="number of processes that load the checkpoint")


def report(flags: argparse.Namespace) -> None:
    """Write a checkpoint, load it and print the medians.

    Args:
        flags: The parsed command line.
    """
    import subprocess
    import tempfile
    from pathlib import Path

    import jax
    import numpy as np
    import optax  # pyright: ignore[reportMissingTypeStubs]

    import tcvit_jax as tc
    from tcvit_jax import models
    from tcvit_jax.training.checkpoint import Checkpoints
    from tcvit_jax.training.step import make_init

    model = tc.create_model(flags.model)
    rng = np.random.default_rng(0)
    # Random values everywhere, as after training; zeros would be compressed.
    state = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype),
        jax.eval_shape(make_init(model, optax.adamw(1e-3), 0)),
    )
    with tempfile.TemporaryDirectory() as folder:
        with Checkpoints(Path(folder)) as checkpoints:
            checkpoints.save(1, state, {"step": 1, "model": models.to_config(model)})
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        outputs = [
            subprocess.run([sys.executable, "-c", ROUND, folder], check=True, capture_output=True, text=True).stdout
            for _ in range(flags.rounds)
        ]
    first, second, verification = np.median([[float(line) for line in each.split()] for each in outputs], axis=0)
    print(f"{flags.model}, {size / 1e6:,.0f} MB, median of {flags.rounds} processes")
    print("| measurement | s | verification |\n|---|---|---|")
    print(f"| first load of a process | {first:.3f} | {verification / first:.1%} |")
    print(f"| second load | {second:.3f} | {verification / second:.1%} |")
    print(f"| verification of all files | {verification:.3f} | |")


main = Command(__doc__, add_arguments, report)

if __name__ == "__main__":
    sys.exit(main())
