"""Runs in processes of their own, killed at random moments and continued: what is left must be what it would have been.

python -m tests.training.kills --count 20
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# A process compiles half as long, and computes the same as another one with the same flag.
LEAST_EFFORT = "--xla_backend_optimization_level=0"
CONFIG = str(ROOT / "configs" / "digits_gtp.py")
# 179 steps of a tiny model; checkpoints, logs and long evaluations often enough that a kill can meet any of them.
SETTINGS = (
    "--config.model.depth=2", "--config.model.embed_dim=16", "--config.model.num_heads=2", "--config.schedule=8",
    "--config.batch_size=64", "--config.eval_batch_size=2", "--config.epochs=8", "--config.eval_every=1.02",
    "--config.optimizer.warmup_epochs=0.2", "--config.log_every=23", "--config.checkpoint_every=5",
    "--config.mixing.mixup=0.8", "--config.mixing.cutmix=1.0", "--config.random_erasing=0.25",
)  # fmt: skip
MOMENTS = ("step", "saving", "evaluation")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
PREEMPTED = 75
# What a clock says differs from run to run.
TIMES = ("images_per_second", "val_images_per_second", "train_images_per_second")


def start(workdir, *arguments, **variables):
    """`python train.py` in a process of its own, on one device, with warnings as errors."""
    command = [sys.executable, "-W", "error", "train.py", "--config", CONFIG, *SETTINGS, *arguments]
    environment = {**os.environ, "XLA_FLAGS": LEAST_EFFORT, "JAX_PLATFORMS": "cpu", "COLUMNS": "400", **variables}
    return subprocess.Popen(
        [*command, f"--config.workdir={workdir}"], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process, seconds=300):
    """What a process printed; it has to have ended well."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


def everything(workdir):
    """The last step, every array of its checkpoint as bytes, and all metrics but times."""
    import jax
    import numpy as np

    from tcvit_jax import config
    from tcvit_jax.training.checkpoint import Checkpoints
    from tcvit_jax.training.job import build
    from tcvit_jax.training.step import make_init

    job = build(config.load(CONFIG, [each for each in SETTINGS if "batch_size" not in each]))
    with Checkpoints(Path(workdir)) as checkpoints:
        last = checkpoints.latest()
        like = jax.eval_shape(make_init(job.model, job.tx, 0))
        state = checkpoints.restore(last, like, job.mesh, job.model.PARAMETERS)
    arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((Path(workdir) / "summary.json").read_text())
    return last, arrays, [_timeless(line) for line in lines], _timeless(summary)


def _timeless(values):
    return {key: value for key, value in values.items() if key not in TIMES}


def wait_for(workdir, moment, rng, process, last=150):
    """Return when a run is in a moment: somewhere in its steps (not far behind `last`), in a save, or in an evaluation."""
    folder, metrics = Path(workdir) / "checkpoints", Path(workdir) / "metrics.jsonl"

    def lines():
        return metrics.read_text().splitlines() if metrics.is_file() else []

    first = rng.randrange(5, last)
    until(lambda: any(path.name.isdigit() and int(path.name) >= first for path in folder.glob("*")), process)
    time.sleep(rng.uniform(0, 0.2))
    if moment == "saving":
        until(lambda: any("tmp" in path.name for path in folder.glob("*")), process)
    elif moment == "evaluation":
        # Steps are logged just before they are evaluated, and take longer to evaluate than to be seen here.
        count = len(lines())
        until(lambda: len(lines()) > count and '"loss"' in lines()[-1], process)
        time.sleep(rng.uniform(0, 0.05))


def until(condition, process, seconds=180):
    """Wait for a condition of a process that goes on; it may come too late for it."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not get there"
        time.sleep(0.001)


def kill(workdir, moment, number, rng, last=150):
    """Start a run, end it with a signal, continue it, and say where it was; None where it had ended before."""
    process = start(workdir)
    wait_for(workdir, moment, rng, process, last)
    process.send_signal(number)
    output, _ = process.communicate(timeout=180)
    if process.returncode == 0:
        return None
    assert process.returncode == (PREEMPTED if number == signal.SIGTERM else -number), output
    if number == signal.SIGTERM:
        assert "interrupted, and saved after step" in output
    output = finish(start(workdir))
    assert "continued after step" in output, output
    return next(line for line in output.splitlines() if "continued" in line).rpartition(", ")[2]


def main():
    """Kill as often as asked, in turn in every moment and with each signal, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    rng, begun = random.Random(flags.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        finish(start(whole))
        expected, same, done = everything(whole), 0, 0
        while done < flags.count:
            run = Path(scratch) / "killed"
            moment, number = MOMENTS[done % 3], SIGNALS[done // 3 % 2]
            found = kill(run, moment, number, rng)
            if found is not None:
                done += 1
                equal = everything(run) == expected
                same += equal
                print(
                    f"{done:3} {number.name} in {moment}: {found}, {'the same' if equal else 'DIFFERENT'}", flush=True
                )
            shutil.rmtree(run)
    print(f"{same} of {done} the same bit for bit, in {time.monotonic() - begun:.0f} s")
    return 0 if same == done else 1


if __name__ == "__main__":
    sys.exit(main())
