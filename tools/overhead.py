"""Measure the overhead of token reduction: the time of condensed models over that of their oracle slice.

python tools/overhead.py --model deit_small_patch16_224 --schedule 13 --batch 16 --reducers gtp,tcvit --rounds 60

The oracle slice is the same model, whose blocks remove the same number of tokens by a slice
(`tcvit_jax.measure.oracle`). Forward passes are compiled and timed in turns. Weights are random, since times do not
depend on them.
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--model", default="deit_small_patch16_224", help="name of the model")
    parser.add_argument("--schedule", type=int, default=13, help="number of patch tokens removed in each block")
    parser.add_argument("--batch", type=int, default=16, help="batch size")
    parser.add_argument("--reducers", default="gtp,tcvit", help="reducers, separated by commas")
    parser.add_argument(
        "--rounds", type=int, default=60, help="number of rounds, each of which times every program once"
    )


def report(flags: argparse.Namespace) -> None:
    """Time the programs in turns and print a row for each.

    Args:
        flags: The parsed command line.
    """
    import jax
    import numpy as np

    import tcvit_jax as tc
    from tcvit_jax import reducers
    from tcvit_jax.benchmark.timing import compile_program, time_interleaved
    from tcvit_jax.measure.oracle import oracle

    dense = tc.create_model(flags.model)
    condensed = [tc.condense(dense, reducer, flags.schedule) for reducer in reducers.parse(flags.reducers)]
    models = [oracle(condensed[0]), *condensed, dense]
    images = jax.random.normal(jax.random.key(0), (flags.batch, *dense.img_size, dense.in_chans))
    variables = jax.jit(dense.init)(jax.random.key(1), images[:1])
    seconds = time_interleaved([compile_program(model.apply, variables, images) for model in models], flags.rounds)
    ratios = np.quantile(seconds / seconds[:, :1], (0.25, 0.5, 0.75), axis=0)
    names = ["oracle slice", *(repr(model.reducer) for model in condensed), "dense"]
    print(f"{flags.model}, {flags.schedule} removed per block, batch {flags.batch}, {jax.devices()[0].device_kind}")
    print(f"| program | ms | over the oracle slice, median of {flags.rounds} rounds | quartiles |\n|---|---|---|---|")
    for name, ms, (low, middle, high) in zip(names, 1e3 * np.median(seconds, axis=0), ratios.T - 1, strict=True):
        print(f"| {name} | {ms:.1f} | {middle:+.1%} | {low:+.1%} to {high:+.1%} |")


main = Command(__doc__, add_arguments, report)

if __name__ == "__main__":
    sys.exit(main())
