"""Search for the reduction of a model that agrees best with the dense model, on training images.

python -m tcvit_jax.search --checkpoint runs/digits_dense --macs-fraction 0.6
python -m tcvit_jax.search --checkpoint runs/digits_dense --fusions hard,soft --families keep_rate --methods tome,gtp

The same command resumes an interrupted search.
"""

from __future__ import annotations

import argparse
import sys

from tcvit_jax.command import Command, PathArgument
from tcvit_jax.tasks.arguments import add_task_arguments, add_weights_arguments, parse_img_size, parse_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--checkpoint", action=PathArgument, help="run directory, checkpoint or another source of tc.load"
    )
    add_weights_arguments(parser)
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
    parser.add_argument("--out", default="runs/search", action=PathArgument, help="output directory")
    add_task_arguments(parser)


def run(flags: argparse.Namespace) -> None:
    """Run the search, write the results and print the table."""
    from tcvit_jax import assembly, config, lock
    from tcvit_jax.benchmark.store import Store
    from tcvit_jax.errors import requires
    from tcvit_jax.search import table
    from tcvit_jax.search.run import Search
    from tcvit_jax.search.settings import build
    from tcvit_jax.search.space import Space, describe_left_out

    task, img_size = parse_task(flags), parse_img_size(flags)
    space = Space.parse(flags.scores, flags.matches, flags.fusions, flags.families, flags.methods)
    keys = (*config.EVALUATION_KEYS, "data.train_split")
    command = "tcvit_jax.search, which has --methods and --gmacs"
    checkpoints = [flags.checkpoint] if flags.checkpoint else []
    models = assembly.from_flags(flags, checkpoints, img_size, command, keys)
    if not models:
        raise requires("a search", "weights", "pass --checkpoint DIR or --config FILE")
    (pretrained,) = models
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
