"""Search for the reduction of a model that agrees best with the dense model, on training images.

python -m tcvit_jax.search --checkpoint runs/digits_dense --macs-fraction 0.6
python -m tcvit_jax.search --checkpoint runs/digits_dense --fusions hard,soft --families keep_rate --methods tome,gtp

The same command resumes an interrupted search.
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command, PathArgument
from tcvit_jax.tasks.arguments import add_task_arguments, parse_img_size, parse_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--checkpoint", action=PathArgument, help="run directory, checkpoint or another source of tc.load"
    )
    parser.add_argument(
        "--config", action=PathArgument, help="alternative to --checkpoint: a config file with the model and data"
    )
    parser.add_argument(
        "--weights",
        default="",
        action=PathArgument,
        help="weights for --config: a weight file, directory, hf-hub:ORG/NAME or checkpoint",
    )
    parser.add_argument("--gmacs", type=float, help="budget in units of 1e9 MACs; by default that of --macs-fraction")
    parser.add_argument(
        "--macs-fraction",
        type=float,
        default=0.6,
        help="budget as a fraction of the MACs of the dense model; ignored with --gmacs",
    )
    for flag, text in (
        ("scores", "scores of reducers.Cross"), ("matches", "matches of reducers.Cross"),
        ("fusions", "fusions of reducers.Cross"), ("families", "schedule families"),
        ("methods", "reducers, optionally with fields such as tcvit(order=3), each with the values of SEARCH_SPACE"),
    ):  # fmt: skip
        parser.add_argument(f"--{flag}", default="all", help=f"comma-separated {text}; all, or empty for none")
    parser.add_argument(
        "--objective",
        default="",
        help="cosine with the dense features, or a metric; by default iou for dense, or cosine",
    )
    parser.add_argument("--images", type=int, default=512, help="number of training images of the last rung")
    parser.add_argument("--min-images", type=int, default=16, help="number of training images of the first rung")
    parser.add_argument("--eta", type=int, default=3, help="a rung passes on one of ETA candidates, the best ones")
    parser.add_argument(
        "--accept-data-changes",
        action="store_true",
        help="search even if the classes or images differ from those that the checkpoint records",
    )
    parser.add_argument("--out", default="runs/search", action=PathArgument, help="output directory")
    add_task_arguments(parser)


def run(flags: argparse.Namespace) -> None:
    """Run the search, write the results and print the table."""
    from tcvit_jax import assembly, config, lock
    from tcvit_jax.benchmark.store import Store
    from tcvit_jax.errors import conflicts, requires
    from tcvit_jax.search import table
    from tcvit_jax.search.run import Search
    from tcvit_jax.search.settings import build
    from tcvit_jax.search.space import Space, describe_left_out

    if flags.checkpoint and flags.config:
        raise conflicts("--checkpoint", "--config", "pass one of them")
    task, img_size = parse_task(flags), parse_img_size(flags)
    space = Space.parse(flags.scores, flags.matches, flags.fusions, flags.families, flags.methods)
    keys = (*config.EVALUATION_KEYS, "data.train_split")
    command = "tcvit_jax.search, which has --methods and --gmacs"
    if flags.checkpoint:
        pretrained = assembly.from_checkpoint(flags.checkpoint, img_size)
        changed = config.override(pretrained.config, flags.overrides, config.Scope(command, keys))
        pretrained = pretrained.with_config(changed)
    elif flags.config:
        scope = config.Scope(command, (*keys, "model.", "weights", "new_head"))
        weights = {"weights": flags.weights} if flags.weights else {}
        pretrained = assembly.from_weights(config.load(flags.config, flags.overrides, scope, weights))
    else:
        raise requires("a search", "weights", "pass --checkpoint DIR or --config FILE")
    if flags.accept_data_changes:
        pretrained = pretrained.without_record()
    settings = build(
        pretrained, space, task, metric=flags.objective, gmacs=flags.gmacs, macs_fraction=flags.macs_fraction,
        images=flags.images, min_images=flags.min_images, eta=flags.eta,
    )  # fmt: skip
    with lock.hold(lock.in_directory(flags.out), flags.out, "set --out DIR to another directory") as notice:
        lines = [notice, *assembly.describe_reading(pretrained.config.data, settings.calibration.data)]
        for line in (*filter(None, lines), *describe_left_out(settings.left_out)):
            print(line)
        search = Search(settings, Store(flags.out, settings.to_config(), table.FILES))
        search.run()
    print((search.store.path / "results.md").read_text())
    print(f"saved to {search.store.path}; use the best candidate as preset:{search.store.path / 'preset.json'}")


main = Command(
    __doc__, add_arguments, run, prog="python -m tcvit_jax.search", has_overrides=True,
    memory_hint="lower --min-images, which is the batch size, or --config.eval_batch_size",
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
