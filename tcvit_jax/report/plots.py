"""Pictures: the loss and the accuracy over a run, and accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcvit_jax import atomic


def _figure(**keys: Any) -> Any:
    """An empty figure, or None without matplotlib, which is an optional package."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    # Made without pyplot, which would pick a window system and keep global state.
    figure = Figure(layout="constrained", **keys)
    FigureCanvasAgg(figure)
    return figure


def draw_curves(history: Sequence[dict[str, Any]], path: Path, title: str) -> bool:
    """Draw the logged `loss`, `val_loss` and `val_top1` over steps into `path`.

    Args:
        history: lines of the log.
        path: of the picture.
        title: of the picture.

    Returns:
        Whether it could: False without matplotlib, which is an optional package.
    """
    figure = _figure(figsize=(9, 3.6))
    if figure is None:
        return False
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
    with atomic.write(path) as draft:
        figure.savefig(draft, dpi=120)
    return True


def draw_tradeoff(
    lines: Mapping[str, Sequence[tuple[float, float]]], dense: tuple[float, float], path: Path, label: str, title: str
) -> bool:
    """Draw top-1 in percent against a cost into `path`: a line for each method, a star for the dense model.

    Args:
        lines: of each method, points of cost and accuracy.
        dense: the dense model's point.
        path: of the picture.
        label: of the cost.
        title: of the picture.

    Returns:
        Whether it could: False without matplotlib.
    """
    figure = _figure(figsize=(7, 4.6))
    if figure is None:
        return False
    axes = figure.subplots()
    axes.set(title=title, xlabel=label, ylabel="top-1, %")
    styles = ("-", "--", ":")
    for index, (name, points) in enumerate(lines.items()):
        # Ten colors come back: lines differ then.
        axes.plot(*zip(*sorted(points), strict=True), marker=".", label=name, linestyle=styles[index // 10 % 3])
    axes.plot(*dense, marker="*", markersize=12, color="black", linestyle="none", label="dense")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    with atomic.write(path) as draft:
        figure.savefig(draft, dpi=120)
    return True
