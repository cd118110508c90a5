"""Draw the patches that each block keeps.

python tools/kept_patches.py runs/digits_gtp docs/kept_patches.png
"""

from __future__ import annotations

import argparse
import sys

import checkpoints

from tcvit_jax.command import Command, PathArgument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("checkpoint", action=PathArgument, help="directory of a training run")
    parser.add_argument("picture", action=PathArgument, help="path of the picture")
    parser.add_argument("--images", type=int, default=4, help="number of images, one row each")


def run(flags: argparse.Namespace) -> None:
    """Draw the picture."""
    draw(checkpoints.load(flags.checkpoint), flags.picture, flags.images)


def draw(evaluation: checkpoints.EvaluationModel, path: str, count: int) -> None:
    """Draw one row per image, with one column for the image and one for each block. Removed patches are dimmed.

    Args:
        evaluation: The condensed model and its evaluation images.
        path: The path of the picture.
        count: The number of images, the first ones of the split.
    """
    import jax
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from tcvit_jax import atomic

    model, source = evaluation.model, evaluation.data.source
    images = evaluation.pixels(range(count))
    forward = jax.jit(model.apply, static_argnames="trace")
    logits, trace = forward(evaluation.variables, evaluation.normalize(images), trace=True)

    columns = 1 + len(trace.kept)
    figure = Figure(figsize=(1.5 * columns, 1.6 * count), layout="constrained")
    FigureCanvasAgg(figure)
    for row, axes in enumerate(np.atleast_2d(figure.subplots(count, columns))):
        for column, axis in enumerate(axes):
            picture = images[row] / 255
            if column:
                kept, origin = np.zeros(model.grid[0] * model.grid[1]), np.asarray(trace.kept[column - 1][row])
                kept[origin[origin >= 0]] = 1  # A token fused from several patches has origin -1.
                mask = np.kron(kept.reshape(model.grid), np.ones((model.patch_size, model.patch_size)))[..., None]
                # Removed patches are tinted blue, to distinguish them from black patches that are kept.
                picture = np.broadcast_to(picture, (*picture.shape[:2], 3))
                picture = picture * mask + (1 - mask) * (0.35 * picture + np.array([0.25, 0.4, 0.6]))
            axis.imshow(picture, cmap="gray", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(
                    f"block {column - 1}: {trace.kept[column - 1].shape[1]}" if column else "image", fontsize=9
                )
        label, prediction = source.classes[source[row]["label"]], source.classes[int(logits[row].argmax())]
        axes[0].set_ylabel(f"{label}, predicted {prediction}", fontsize=9)
    with atomic.write(path) as draft:
        figure.savefig(draft, dpi=90)


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
