"""Compare reducers with the same weights, code and hardware.

python -m tcvit_jax.benchmark --checkpoint runs/digits_dense --reducers gtp,tcvit,tome,evit
python -m tcvit_jax.benchmark --config configs/deit_s_gtp.py --weights FILE --reducers all --gmacs 4.0,3.4,2.9,2.3
python -m tcvit_jax.benchmark --checkpoint runs/a runs/b runs/c --reducers "tcvit(order=3),gtp" --calibrate 2000

python -m tcvit_jax.benchmark --checkpoint dinov2_small --task retrieval --config.data.name=pairs --config.data.dir=DIR

The same command resumes an interrupted benchmark.
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command, PathArgument, numbers
from tcvit_jax.tasks.arguments import add_task_arguments, add_weights_arguments, parse_img_size, parse_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        action=PathArgument,
        help="run directories, checkpoints or other sources of tc.load, of one model, one per seed",
    )
    add_weights_arguments(parser)
    parser.add_argument(
        "--reducers",
        default="gtp,tcvit,tome,evit",
        help="comma-separated reducers, optionally with fields such as tcvit(order=3), or preset:NAME; or all",
    )
    parser.add_argument(
        "--gmacs",
        help="budgets in units of 1e9 multiply-adds (MACs), such as 4.0,3.4; by default those of --macs-fraction",
    )
    parser.add_argument(
        "--macs-fraction",
        default="0.75,0.6,0.5",
        help="budgets as fractions of the MACs of the dense model; ignored with --gmacs",
    )
    parser.add_argument(
        "--schedule-family",
        default="method",
        help="constant, keep_rate, stages, deferred, or method for that of each reducer or preset",
    )
    parser.add_argument("--batch", type=int, default=64, help="images per batch of throughput measurements")
    parser.add_argument("--rounds", type=int, default=30, help="number of timed runs of each program, interleaved")
    parser.add_argument(
        "--calibrate",
        type=int,
        default=0,
        metavar="IMAGES",
        help="number of training images to choose reducer parameters on; by default none",
    )
    parser.add_argument(
        "--no-bounds",
        action="store_true",
        help="leave out the rows of the dense model at a lower resolution, and of Random and Uniform",
    )
    parser.add_argument("--out", default="runs/benchmark", action=PathArgument, help="output directory")
    add_task_arguments(parser)


def run(flags: argparse.Namespace) -> None:
    """Run the benchmark, write the results and print the table."""
    from tcvit_jax import assembly, config, lock
    from tcvit_jax.benchmark.comparison import build
    from tcvit_jax.benchmark.run import Benchmark
    from tcvit_jax.benchmark.store import Store
    from tcvit_jax.presets import parse

    task, img_size = parse_task(flags), parse_img_size(flags)
    reads_train_split = flags.calibrate or task.uses_train_data
    keys = (*config.EVALUATION_KEYS, *(["data.train_split"] if reads_train_split else []))
    command = "tcvit_jax.benchmark, which has --reducers and --gmacs"
    pretrained = assembly.from_flags(flags, flags.checkpoint or (), img_size, command, keys)
    methods = parse(flags.reducers)
    comparison = build(
        pretrained, [reducer for reducer, _ in methods], gmacs=numbers("--gmacs", flags.gmacs),
        macs_fractions=numbers("--macs-fraction", flags.macs_fraction),
        schedule_family=flags.schedule_family, batch=flags.batch, rounds=flags.rounds, calibrate=flags.calibrate,
        task=task, has_bounds=not flags.no_bounds, families=[family for _, family in methods],
    )  # fmt: skip
    with lock.hold(lock.in_directory(flags.out), flags.out, "set --out DIR to another directory") as notice:
        if notice:
            print(notice)
        for line in assembly.describe_reading(comparison.config.data, comparison.data):
            print(line)
        benchmark = Benchmark(comparison, Store(flags.out, comparison.settings))
        benchmark.run()
    print((benchmark.store.path / "results.md").read_text())
    print(f"saved to {benchmark.store.path}")


main = Command(
    __doc__, add_arguments, run, prog="python -m tcvit_jax.benchmark", has_overrides=True,
    memory_hint="lower --batch or --config.eval_batch_size",
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
