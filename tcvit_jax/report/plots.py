"""`curves.png`: the loss and the accuracy over a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_curves(history: Sequence[dict[str, Any]], path: Path, title: str) -> bool:
    """Draw the logged `loss`, `val_loss` and `val_top1` over steps into `path`.

    Args:
        history: lines of the log.
        path: of the picture.
        title: of the picture.

    Returns:
        Whether it could: False without matplotlib, which is an optional package.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    # The figure is made without pyplot, which would pick a window system and keep global state.
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    left, right = figure.subplots(1, 2)
    for axes, keys, label in ((left, ("loss", "val_loss"), "loss"), (right, ("val_top1",), "validation top-1")):
        for key in keys:
            points = [(line["step"], line[key]) for line in history if line.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label={"loss": "training", "val_loss": "validation"}.get(key))
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
    if history:
        left.legend()
    figure.savefig(path, dpi=120)
    return True
