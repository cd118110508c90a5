"""Evaluate a checkpoint, or published weights, on every image of a split.

python eval.py --checkpoint runs/digits_gtp [--config.key=value ...]
python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors [--config.key=value ...]
"""

import argparse
import sys


def main(arguments: list[str]) -> int:
    """Flags to a model and its data, those to the library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a run directory, a checkpoint in one, or a converted model")
    parser.add_argument("--config", help="with --weights: a file of configs/")
    parser.add_argument("--weights", help="a weight file, hf-hub:timm/NAME, or a checkpoint")
    flags, overrides = parser.parse_known_args(arguments)
    published = flags.config and flags.weights
    if bool(flags.checkpoint) == bool(published) or (flags.checkpoint and (flags.config or flags.weights)):
        parser.error("give --checkpoint DIR, or --config FILE and --weights FILE")

    from tcvit_jax import InputError
    from tcvit_jax.training.evaluate import evaluate_checkpoint, evaluate_weights

    try:
        if flags.checkpoint:
            evaluate_checkpoint(flags.checkpoint, overrides)
        else:
            evaluate_weights(flags.config, flags.weights, overrides)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
