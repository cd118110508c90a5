"""Kill and resume training runs at random moments, and compare their results with those of an uninterrupted run.

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

from tests import processes
from tests.compilation import FAST_COMPILATION

ROOT = Path(__file__).parent.parent.parent
CONFIG = str(ROOT / "configs" / "digits_gtp.py")
# 112 steps of a tiny model, with frequent checkpoints, logs and long evaluations, so that a kill can hit any of them.
SETTINGS = (
    "--config.model.depth=2", "--config.model.embed_dim=16", "--config.model.num_heads=2", "--config.schedule=8",
    "--config.batch_size=64", "--config.eval_batch_size=2", "--config.epochs=5", "--config.eval_every=1.02",
    "--config.optimizer.warmup_epochs=0.2", "--config.log_every=23", "--config.checkpoint_every=5",
    "--config.mixing.mixup=0.8", "--config.mixing.cutmix=1.0", "--config.random_erasing=0.25",
)  # fmt: skip
# Of killed runs. Their results must be those of the reference, which decodes in its main process.
WORKERS = "--config.data.workers=2"
MOMENTS = ("step", "saving", "evaluation")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What a run prints that is saved on a signal, and its exit status.
CAUSES = {signal.SIGTERM: "preempted", signal.SIGINT: "interrupted"}
PREEMPTED = 75
# A shell starts commands in the background with `SIGINT` ignored, and `nohup` ignores `SIGHUP`: runs would inherit that.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)
# Timings, which differ between runs.
TIMINGS = ("images_per_second", "val_images_per_second", "train_images_per_second")


def start(workdir, *arguments, **variables):
    """Start `python train.py` in a subprocess, on one device, with warnings as errors.

    Args:
        workdir: The run directory.
        *arguments: Command-line arguments in addition to `SETTINGS`.
        **variables: Environment variables.
    """
    command = [sys.executable, "-W", "error", "train.py", "--config", CONFIG, *SETTINGS, *arguments]
    environment = {**os.environ, "XLA_FLAGS": FAST_COMPILATION, "JAX_PLATFORMS": "cpu", "COLUMNS": "400", **variables}
    return subprocess.Popen(
        [*command, f"--config.workdir={workdir}"], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process, seconds=300):
    """Wait for a process, which must exit with status 0, and return its output."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


def read_results(workdir):
    """Return the last step, the arrays of its checkpoint as bytes, and all metrics except timings."""
    import jax
    import numpy as np

    from tcvit_jax import config
    from tcvit_jax.training.checkpoint import Checkpoints
    from tcvit_jax.training.job import build
    from tcvit_jax.training.step import make_init

    job = build(config.load(CONFIG, [each for each in SETTINGS if "batch_size" not in each]))
    with Checkpoints(Path(workdir)) as checkpoints:
        step = checkpoints.latest_step()
        abstract_state = jax.eval_shape(make_init(job.model, job.tx, 0))
        state = checkpoints.restore(step, abstract_state, job.mesh, job.model.PARAMETERS)
    arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((Path(workdir) / "summary.json").read_text())
    return step, arrays, [without_timings(line) for line in lines], without_timings(summary)


def without_timings(values):
    return {key: value for key, value in values.items() if key not in TIMINGS}


def wait_for_moment(workdir, moment, rng, process):
    """Wait until a run of 112 steps is in a step, in a save, or in an evaluation."""
    folder, metrics = Path(workdir) / "checkpoints", Path(workdir) / "metrics.jsonl"

    def lines():
        return metrics.read_text().splitlines() if metrics.is_file() else []

    first = rng.randrange(5, 80)
    wait_until(lambda: any(path.name.isdigit() and int(path.name) >= first for path in folder.glob("*")), process)
    time.sleep(rng.uniform(0, 0.2))
    if moment == "saving":
        wait_until(lambda: any("tmp" in path.name for path in folder.glob("*")), process)
    elif moment == "evaluation":
        # A step is logged just before its evaluation, which takes longer than the polling interval.
        count = len(lines())
        wait_until(lambda: len(lines()) > count and '"loss"' in lines()[-1], process)
        time.sleep(rng.uniform(0, 0.05))


def wait_until(condition, process, seconds=180):
    """Wait until a condition holds or the process exits."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "timeout while waiting for the run"
        time.sleep(0.001)


def kill(workdir, moment, number, rng):
    """Start a run with decoding workers, kill it, check that nothing of it is left after ten seconds, and resume it.

    Args:
        workdir: The run directory.
        moment: When to kill it, one of `MOMENTS`.
        number: The signal.
        rng: The random number generator.

    Returns:
        A text that says at which step the run was resumed, or None if it finished before it was killed.
    """
    process = start(workdir, WORKERS)
    wait_for_moment(workdir, moment, rng, process)
    workers = processes.children(process.pid)
    shared_memory = processes.shared_memory_of([process.pid, *workers])
    process.send_signal(number)
    process.wait(timeout=180)
    processes.wait_until(lambda: not any(map(processes.is_running, workers)), seconds=10)
    assert not [path for path in shared_memory if path.exists()]
    output, _ = process.communicate(timeout=180)
    if process.returncode == 0:
        return None
    assert process.returncode == (PREEMPTED if number in CAUSES else -number), output
    if number in CAUSES:
        assert f"{CAUSES[number]}: saved after step" in output
    output = finish(start(workdir, WORKERS))
    assert "resumed after step" in output, output
    return next(line for line in output.splitlines() if "resumed" in line).rpartition(", ")[2]


def main():
    """Kill runs at every kind of moment and with each signal in turn, and compare their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="number of runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    flags = parser.parse_args()
    rng, start_time = random.Random(flags.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch) / "reference"
        finish(start(reference))
        expected, matches, count = read_results(reference), 0, 0
        while count < flags.count:
            run = Path(scratch) / "killed"
            moment, number = MOMENTS[count % 3], SIGNALS[count // 3 % 3]
            resumed = kill(run, moment, number, rng)
            if resumed is not None:
                count += 1
                is_equal = read_results(run) == expected
                matches += is_equal
                print(
                    f"{count:3} {number.name} in {moment}: {resumed}, {'equal' if is_equal else 'DIFFERENT'}",
                    flush=True,
                )
            shutil.rmtree(run)
    print(f"{matches} of {count} runs bit-for-bit equal, in {time.monotonic() - start_time:.0f} s")
    return 0 if matches == count else 1


if __name__ == "__main__":
    sys.exit(main())
