"""Compare methods on the same weights, the same code and the same clock.

python -m tcvit_jax.benchmark --checkpoint runs/digits_dense --reducers gtp,tcvit,tome,evit
python -m tcvit_jax.benchmark --config configs/deit_s_gtp.py --weights FILE --reducers all --gmacs 4.0,3.4,2.9,2.3
python -m tcvit_jax.benchmark --checkpoint runs/a runs/b runs/c --reducers "tcvit(order=3),gtp" --calibrate 2000

The same command continues an interrupted one.
"""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str]) -> int:
    """Flags to the library; a mistake is one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tcvit_jax.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", nargs="+", help="runs or converted weights of one model: one for each seed")
    parser.add_argument("--config", help="instead: a file of configs/, for its model and data")
    parser.add_argument("--weights", default="", help="with --config: a weight file, hf-hub:timm/NAME or a checkpoint")
    parser.add_argument("--reducers", default="gtp,tcvit,tome,evit", help="names, with fields in brackets; or all")
    parser.add_argument("--gmacs", help="budgets in 1e9 multiply-adds, such as 4.0,3.4")
    parser.add_argument("--share", default="0.75,0.6,0.5", help="without those, as parts of the dense model's")
    parser.add_argument(
        "--shape", default="method", help="of schedules: constant, keep_rate, stages, or each method's own"
    )
    parser.add_argument("--batch", type=int, default=64, help="images of a timed batch")
    parser.add_argument("--rounds", type=int, default=30, help="timed runs of every program, in turns")
    parser.add_argument(
        "--calibrate", type=int, default=0, metavar="IMAGES", help="of the training split, to choose parameters on"
    )
    parser.add_argument("--out", default="runs/benchmark", help="where results are kept")
    flags, overrides = parser.parse_known_args(arguments)
    if bool(flags.checkpoint) == bool(flags.config):
        parser.error("give --checkpoint DIR, or --config FILE")

    from tcvit_jax.benchmark import subject as subjects
    from tcvit_jax.benchmark.run import Benchmark
    from tcvit_jax.benchmark.store import Store
    from tcvit_jax.errors import InputError
    from tcvit_jax.reducers import parse

    try:
        if flags.checkpoint:
            found = subjects.from_checkpoints(flags.checkpoint, overrides)
        else:
            found = subjects.from_config(flags.config, flags.weights, overrides)
        subject = subjects.build(
            found, parse(flags.reducers), gmacs=_numbers("gmacs", flags.gmacs), shares=_numbers("share", flags.share),
            shape=flags.shape, batch=flags.batch, rounds=flags.rounds, calibrate=flags.calibrate,
        )  # fmt: skip
        benchmark = Benchmark(subject, Store(flags.out, subject.settings))
        benchmark.run()
        print((benchmark.store.path / "results.md").read_text())
        print(f"saved in {benchmark.store.path}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _numbers(flag: str, text: str | None) -> tuple[float, ...]:
    from tcvit_jax.errors import InputError

    try:
        return tuple(float(part) for part in (text or "").split(",") if part)
    except ValueError as error:
        raise InputError(f"--{flag} {text!r} should be numbers with commas, such as 0.75,0.5") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
