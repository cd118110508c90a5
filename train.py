"""Train a model: `python train.py --config configs/digits_gtp.py [--config.key=value ...]`."""

import argparse
import sys


def main(arguments: list[str]) -> int:
    """Flags to a configuration, the configuration to the library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a file of configs/, or your own with get_config()")
    flags, overrides = parser.parse_known_args(arguments)

    from tcvit_jax import InputError, config
    from tcvit_jax.training.loop import train

    try:
        train(config.load(flags.config, overrides))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
