"""Train a model: `python train.py --config configs/digits_gtp.py [--config.key=value ...]`.

The same command resumes an interrupted run. On `SIGTERM`, it saves a checkpoint and exits with status 75.
"""

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--config", required=True, help="configuration file: FILE.py or FILE.py:RECIPE")
    parser.add_argument("--distributed", default="auto", help="multi-process training: auto (default), on or off")


def run(flags: argparse.Namespace) -> int:
    """Train the model of a configuration."""
    from tcvit_jax import config
    from tcvit_jax.training import runtime
    from tcvit_jax.training.loop import train
    from tcvit_jax.training.preemption import EXIT_STATUS, Preempted

    try:
        with runtime.together(flags.distributed):
            train(config.load(flags.config, flags.overrides), enable_compilation_cache=True)
    except Preempted as error:
        print(error, file=sys.stderr)
        return EXIT_STATUS
    return 0


main = Command(__doc__, add_arguments, run, has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
