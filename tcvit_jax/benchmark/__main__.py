"""Compare methods on the same weights, the same code and the same clock.

python -m tcvit_jax.benchmark --checkpoint runs/digits_dense --reducers gtp,tcvit,tome,evit
python -m tcvit_jax.benchmark --config configs/deit_s_gtp.py --weights FILE --reducers all --gmacs 4.0,3.4,2.9,2.3
python -m tcvit_jax.benchmark --checkpoint runs/a runs/b runs/c --reducers "tcvit(order=3),gtp" --calibrate 2000

The same command continues an interrupted one.
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--checkpoint", nargs="+", help="runs or converted weights of one model: one for each seed")
    parser.add_argument("--config", help="instead: a file of configs/, for its model and data")
    parser.add_argument("--weights", default="", help="with --config: a weight file, hf-hub:timm/NAME or a checkpoint")
    parser.add_argument("--reducers", default="gtp,tcvit,tome,evit", help="names, with fields in brackets; or all")
    parser.add_argument("--gmacs", help="budgets in 1e9 multiply-adds, such as 4.0,3.4")
    parser.add_argument("--share", default="0.75,0.6,0.5", help="without those, as parts of the dense model's")
    parser.add_argument(
        "--schedule_family", default="method", help="of schedules: constant, keep_rate, stages, or each method's own"
    )
    parser.add_argument("--batch", type=int, default=64, help="images of a timed batch")
    parser.add_argument("--rounds", type=int, default=30, help="timed runs of every program, in turns")
    parser.add_argument(
        "--calibrate", type=int, default=0, metavar="IMAGES", help="of the training split, to choose parameters on"
    )
    parser.add_argument("--out", default="runs/benchmark", help="where results are kept")


def run(flags: argparse.Namespace) -> None:
    """Measure, write the tables and print one of them."""
    from tcvit_jax import assembly, config
    from tcvit_jax.benchmark import comparison as subjects
    from tcvit_jax.benchmark.run import Benchmark
    from tcvit_jax.benchmark.store import Store
    from tcvit_jax.errors import InputError
    from tcvit_jax.reducers import parse

    if bool(flags.checkpoint) == bool(flags.config):
        raise InputError("give --checkpoint DIR, or --config FILE")
    keys = (*config.EVALUATION_KEYS, *(["data.train_split"] if flags.calibrate else []))
    command = "tcvit_jax.benchmark, which has --reducers and --gmacs"
    if flags.checkpoint:
        scope = config.Scope(command, keys)
        found = [assembly.from_checkpoint(directory) for directory in flags.checkpoint]
        found = [each.with_config(config.override(each.config, flags.overrides, scope)) for each in found]
    else:
        scope = config.Scope(command, (*keys, "model.", "weights", "new_head"))
        weights = {"weights": flags.weights} if flags.weights else {}
        found = [assembly.from_weights(config.load(flags.config, flags.overrides, scope, weights))]
    comparison = subjects.build(
        found, parse(flags.reducers), gmacs=_numbers("gmacs", flags.gmacs), shares=_numbers("share", flags.share),
        schedule_family=flags.schedule_family, batch=flags.batch, rounds=flags.rounds, calibrate=flags.calibrate,
    )  # fmt: skip
    benchmark = Benchmark(comparison, Store(flags.out, comparison.settings))
    benchmark.run()
    print((benchmark.store.path / "results.md").read_text())
    print(f"saved in {benchmark.store.path}")


def _numbers(flag: str, text: str | None) -> tuple[float, ...]:
    from tcvit_jax.errors import InputError

    try:
        return tuple(float(part) for part in (text or "").split(",") if part)
    except ValueError as error:
        raise InputError(f"--{flag} {text!r} should be numbers with commas, such as 0.75,0.5") from error


main = Command(__doc__, add_arguments, run, prog="python -m tcvit_jax.benchmark", has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
