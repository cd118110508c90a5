"""Evaluate a checkpoint or published weights on every image of a split.

python eval.py --checkpoint runs/digits_gtp [--config.KEY=VALUE ...]
python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors [--config.KEY=VALUE ...]
python eval.py --checkpoint dinov2_small --img-size 224 --task knn --config.data.name=folder --config.data.dir=DIR
"""

import argparse
import sys

from tcvit_jax.command import Command, PathArgument
from tcvit_jax.tasks.arguments import add_task_arguments, parse_img_size, parse_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--checkpoint",
        action=PathArgument,
        help="run directory, checkpoint, directory with config.json of transformers or timm, or hf-hub:ORG/NAME",
    )
    parser.add_argument(
        "--config", action=PathArgument, help="with --weights: configuration file, FILE.py or FILE.py:RECIPE"
    )
    parser.add_argument(
        "--weights", action=PathArgument, help="with --config: weight file, directory, hf-hub:ORG/NAME, or checkpoint"
    )
    parser.add_argument(
        "--accept-data-changes",
        action="store_true",
        help="evaluate even if the classes or images differ from those that the checkpoint records",
    )
    add_task_arguments(parser)


def run(flags: argparse.Namespace) -> None:
    """Evaluate the model and print its cost and its scores."""
    from tcvit_jax import assembly, config
    from tcvit_jax.assembly.evaluate import evaluate as evaluate_classifier
    from tcvit_jax.errors import conflicts, requires
    from tcvit_jax.tasks.evaluate import evaluate

    task, img_size = parse_task(flags), parse_img_size(flags)
    keys = (*config.EVALUATION_KEYS, *config.REDUCTION_KEYS, *(["data.train_split"] if task.uses_train_data else []))

    if flags.checkpoint:
        if flags.config or flags.weights:
            raise conflicts("--checkpoint", "--config or --weights", "a checkpoint holds both")
        scope = config.Scope("eval.py --checkpoint", keys)
        pretrained = assembly.from_checkpoint(flags.checkpoint, img_size)
        pretrained = pretrained.with_config(config.override(pretrained.config, flags.overrides, scope))
    else:
        if not (flags.config and flags.weights):
            raise requires("eval.py", "--checkpoint DIR, or --config FILE and --weights FILE")
        scope = config.Scope("eval.py --weights", (*keys, "model.", "new_head"))
        pretrained = assembly.from_weights(
            config.load(flags.config, flags.overrides, scope, {"weights": flags.weights})
        )
    pretrained = pretrained.without_record() if flags.accept_data_changes else pretrained
    if task.NEEDS_CLASSIFIER:
        evaluate_classifier(pretrained)
    else:
        evaluate(pretrained, task)


main = Command(__doc__, add_arguments, run, has_overrides=True, memory_hint="lower --config.eval_batch_size")

if __name__ == "__main__":
    sys.exit(main())
