"""Evaluate a checkpoint or published weights on every image of a split.

python eval.py --checkpoint runs/digits_gtp [--config.KEY=VALUE ...]
python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors [--config.KEY=VALUE ...]
python eval.py --checkpoint dinov2_small --img-size 224 --task knn --config.data.name=folder --config.data.dir=DIR
"""

import argparse
import sys

from tcvit_jax.command import Command, PathArgument
from tcvit_jax.tasks.arguments import add_task_arguments, add_weights_arguments, parse_img_size, parse_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--checkpoint",
        action=PathArgument,
        help="run directory, checkpoint, directory with config.json of transformers or timm, or hf-hub:ORG/NAME",
    )
    add_weights_arguments(parser)
    add_task_arguments(parser)


def run(flags: argparse.Namespace) -> None:
    """Evaluate the model and print its cost and its scores."""
    from tcvit_jax import assembly, config
    from tcvit_jax.assembly.evaluate import evaluate as evaluate_classifier
    from tcvit_jax.errors import requires
    from tcvit_jax.tasks.evaluate import evaluate

    task, img_size = parse_task(flags), parse_img_size(flags)
    keys = (*config.EVALUATION_KEYS, *config.REDUCTION_KEYS, *(["data.train_split"] if task.uses_train_data else []))
    checkpoints = [flags.checkpoint] if flags.checkpoint else []
    models = assembly.from_flags(flags, checkpoints, img_size, "eval.py", keys)
    if not models:
        raise requires("eval.py", "--checkpoint DIR, or --config FILE and --weights FILE")
    (pretrained,) = models
    if task.NEEDS_CLASSIFIER:
        evaluate_classifier(pretrained)
    else:
        evaluate(pretrained, task)


main = Command(__doc__, add_arguments, run, has_overrides=True, memory_hint="lower --config.eval_batch_size")

if __name__ == "__main__":
    sys.exit(main())
