"""Train a model: `python train.py --config configs/digits_gtp.py [--config.key=value ...]`.

The same command continues a run that was interrupted. On `SIGTERM` it saves and ends with status 75.
"""

import argparse
import sys


def main(arguments: list[str]) -> int:
    """Flags to a configuration, the configuration to the library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a file of configs/, or your own with get_config()")
    parser.add_argument("--distributed", default="auto", help="join other processes: auto (the default), on or off")
    flags, overrides = parser.parse_known_args(arguments)

    from tcvit_jax import InputError, config
    from tcvit_jax.training import runtime
    from tcvit_jax.training.loop import train
    from tcvit_jax.training.preemption import EXIT_STATUS, Preempted

    try:
        runtime.join(flags.distributed)
        train(config.load(flags.config, overrides), keep_compiled=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return runtime.leaving(2)
    except Preempted as preempted:
        print(preempted, file=sys.stderr)
        return EXIT_STATUS
    except Exception as error:
        runtime.tell_of(error)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
