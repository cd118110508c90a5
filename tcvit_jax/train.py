"""Train a model: `python train.py --config configs/digits_gtp.py [--config.KEY=VALUE ...]`.

The same command resumes an interrupted run. On `SIGTERM` the run saves a checkpoint and exits with status 75.
"""

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", required=True, help="configuration file: FILE.py or FILE.py:RECIPE")
    parser.add_argument("--distributed", default="auto", help="join the other processes of the job: auto, on or off")


def run(flags: argparse.Namespace) -> int:
    """Train and return the exit status."""
    from tcvit_jax import config
    from tcvit_jax.training import runtime
    from tcvit_jax.training.loop import train
    from tcvit_jax.training.preemption import EXIT_STATUS, Preempted

    try:
        with runtime.distributed_processes(flags.distributed):
            train(config.load(flags.config, flags.overrides), enable_compilation_cache=True)
    except Preempted as preempted:
        print(preempted, file=sys.stderr)
        return EXIT_STATUS
    return 0


main = Command(__doc__, add_arguments, run, has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
