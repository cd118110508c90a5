"""Evaluate a checkpoint or published weights on every image of a split.

python eval.py --checkpoint runs/digits_gtp [--config.key=value ...]
python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors [--config.key=value ...]
"""

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--checkpoint", help="run directory, one of its checkpoints, or a converted checkpoint")
    parser.add_argument("--config", help="configuration file for --weights: FILE.py or FILE.py:RECIPE")
    parser.add_argument("--weights", help="weight file, hf-hub:timm/NAME, or a checkpoint")


def run(flags: argparse.Namespace) -> None:
    """Evaluate a checkpoint or weights, and print the results."""
    from tcvit_jax import assembly, config
    from tcvit_jax.assembly.evaluate import evaluate
    from tcvit_jax.errors import requires

    has_weights = bool(flags.config and flags.weights)
    if bool(flags.checkpoint) == has_weights or (flags.checkpoint and (flags.config or flags.weights)):
        raise requires("eval.py", "either --checkpoint DIR, or --config FILE and --weights FILE")
    keys = (*config.EVALUATION_KEYS, *config.REDUCTION_KEYS)
    if flags.checkpoint:
        pretrained = assembly.from_checkpoint(flags.checkpoint)
        scope = config.Scope("eval.py --checkpoint", keys)
        pretrained = pretrained.with_config(config.override(pretrained.config, flags.overrides, scope))
    else:
        scope = config.Scope("eval.py --weights", (*keys, "model.", "new_head"))
        loaded_config = config.load(flags.config, flags.overrides, scope, {"weights": flags.weights})
        pretrained = assembly.from_weights(loaded_config)
    evaluate(pretrained)


main = Command(__doc__, add_arguments, run, has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
