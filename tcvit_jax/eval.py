"""Evaluate a checkpoint or published weights on every image of a split.

python eval.py --checkpoint runs/digits_gtp [--config.KEY=VALUE ...]
python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors [--config.KEY=VALUE ...]
"""

import argparse
import sys

from tcvit_jax.command import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--checkpoint", help="run directory, checkpoint of a run, or converted checkpoint")
    parser.add_argument("--config", help="with --weights: configuration file, FILE.py or FILE.py:RECIPE")
    parser.add_argument("--weights", help="with --config: weight file, hf-hub:timm/NAME, or checkpoint")


def run(flags: argparse.Namespace) -> None:
    """Evaluate the model and print its cost and its accuracy."""
    from tcvit_jax import assembly, config
    from tcvit_jax.assembly.evaluate import evaluate
    from tcvit_jax.errors import conflicts, requires

    if flags.checkpoint:
        if flags.config or flags.weights:
            raise conflicts("--checkpoint", "--config or --weights", "a checkpoint holds both")
        scope = config.Scope("eval.py --checkpoint", (*config.EVALUATION_KEYS, *config.REDUCTION_KEYS))
        pretrained = assembly.from_checkpoint(flags.checkpoint)
        pretrained = pretrained.with_config(config.override(pretrained.config, flags.overrides, scope))
    else:
        if not (flags.config and flags.weights):
            raise requires("eval.py", "--checkpoint DIR, or --config FILE and --weights FILE")
        scope = config.Scope(
            "eval.py --weights", (*config.EVALUATION_KEYS, *config.REDUCTION_KEYS, "model.", "new_head")
        )
        pretrained = assembly.from_weights(
            config.load(flags.config, flags.overrides, scope, {"weights": flags.weights})
        )
    evaluate(pretrained)


main = Command(__doc__, add_arguments, run, has_overrides=True)

if __name__ == "__main__":
    sys.exit(main())
