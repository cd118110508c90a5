"""Train a model: `python train.py --config configs/digits_gtp.py [--config.KEY=VALUE ...]`.

The same command resumes an interrupted run. On `SIGTERM` or Ctrl-C the run saves a checkpoint and exits with
status 75; a second Ctrl-C ends it at once, with status 130.
"""

import argparse
import sys

from tcvit_jax.command import Command, PathArgument

MEMORY_HINT = "lower --config.batch_size or --config.eval_batch_size, or raise --config.accumulate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--config", required=True, action=PathArgument, help="configuration file: FILE.py or FILE.py:RECIPE"
    )
    parser.add_argument("--distributed", default="auto", help="join the other processes of the job: auto, on or off")
    parser.add_argument(
        "--accept-data-changes",
        action="store_true",
        help="train even if the classes or images differ from those that a checkpoint of the run, the weights or the "
        "teacher record",
    )


def run(flags: argparse.Namespace) -> int:
    """Train and return the exit status."""
    from tcvit_jax import config
    from tcvit_jax.training import runtime
    from tcvit_jax.training.loop import train
    from tcvit_jax.training.preemption import EXIT_STATUS, Preempted

    try:
        with runtime.distributed_processes(flags.distributed, MEMORY_HINT):
            settings = config.load(flags.config, flags.overrides)
            train(settings, enable_compilation_cache=True, accept_data_changes=flags.accept_data_changes)
    except Preempted as preempted:
        print(preempted, file=sys.stderr)
        return EXIT_STATUS
    return 0


main = Command(__doc__, add_arguments, run, has_overrides=True, memory_hint=MEMORY_HINT)

if __name__ == "__main__":
    sys.exit(main())
