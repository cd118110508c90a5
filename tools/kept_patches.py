"""Draw what every block keeps: `python tools/kept_patches.py runs/digits_gtp docs/kept_patches.png`."""

from __future__ import annotations

import argparse

import checkpoints


def main() -> None:
    """Read the flags and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("picture")
    parser.add_argument("--images", type=int, default=4)
    flags = parser.parse_args()
    draw(checkpoints.load(flags.checkpoint), flags.picture, flags.images)


def draw(evaluated: checkpoints.Evaluated, path: str, count: int) -> None:
    """Draw one row per image; one column for the image and for each block, the removed patches dimmed.

    Args:
        evaluated: the model and its images.
        path: of the picture.
        count: how many images of the split, from the first on.
    """
    import jax
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from tcvit_jax import atomic

    model, source = evaluated.model, evaluated.data.source
    images = evaluated.pixels(range(count))
    forward = jax.jit(model.apply, static_argnames="trace")
    logits, trace = forward(evaluated.variables, evaluated.normalize(images), trace=True)

    columns = 1 + len(trace.kept)
    figure = Figure(figsize=(1.5 * columns, 1.6 * count), layout="constrained")
    FigureCanvasAgg(figure)
    for row, axes in enumerate(np.atleast_2d(figure.subplots(count, columns))):
        for column, axis in enumerate(axes):
            picture = images[row] / 255
            if column:
                kept, origin = np.zeros(model.grid[0] * model.grid[1]), np.asarray(trace.kept[column - 1][row])
                kept[origin[origin >= 0]] = 1  # -1 is a token fused of several
                mask = np.kron(kept.reshape(model.grid), np.ones((model.patch_size, model.patch_size)))[..., None]
                # Removed patches turn blue, so that a black kept patch can be told from them.
                picture = np.broadcast_to(picture, (*picture.shape[:2], 3))
                picture = picture * mask + (1 - mask) * (0.35 * picture + np.array([0.25, 0.4, 0.6]))
            axis.imshow(picture, cmap="gray", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(
                    f"block {column - 1}: {trace.kept[column - 1].shape[1]}" if column else "image", fontsize=9
                )
        label, found = source.classes[source[row]["label"]], source.classes[int(logits[row].argmax())]
        axes[0].set_ylabel(f"{label}, found {found}", fontsize=9)
    with atomic.write(path) as draft:
        figure.savefig(draft, dpi=90)


if __name__ == "__main__":
    main()
