"""Evaluate a checkpoint, or published weights, on every image of a split.

python eval.py --checkpoint runs/digits_gtp [--config.key=value ...]
python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors [--config.key=value ...]
"""

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--checkpoint", help="a run directory, a checkpoint in one, or a converted model")
    parser.add_argument("--config", help="with --weights: a file of configs/, FILE.py or FILE.py:RECIPE")
    parser.add_argument("--weights", help="a weight file, hf-hub:timm/NAME, or a checkpoint")


def run(flags: argparse.Namespace) -> None:
    """Evaluate a checkpoint or weights, and print what was found."""
    from tcvit_jax import InputError, assembly, config
    from tcvit_jax.assembly.evaluate import evaluate

    has_weights = bool(flags.config and flags.weights)
    if bool(flags.checkpoint) == has_weights or (flags.checkpoint and (flags.config or flags.weights)):
        raise InputError("give --checkpoint DIR, or --config FILE and --weights FILE")
    if flags.checkpoint:
        found = assembly.from_checkpoint(flags.checkpoint)
        scope = config.Scope("a checkpoint, which brings its model", (*config.EVALUATION, *config.REDUCTION))
        found = found.with_config(config.override(found.config, flags.overrides, scope))
    else:
        scope = config.Scope("an evaluation", (*config.EVALUATION, *config.REDUCTION, "model.", "new_head"))
        loaded = config.load(flags.config, flags.overrides, scope, {"weights": flags.weights})
        found = assembly.from_weights(loaded)
    evaluate(found)


main = Command(__doc__, add_arguments, run, has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
