"""Plots: training curves, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcvit_jax import atomic


def _make_figure(**options: Any) -> Any:
    """Return an empty figure, or None if matplotlib, an optional dependency, is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    # pyplot would choose a window system and keep global state.
    figure = Figure(layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def draw_curves(history: Sequence[dict[str, Any]], path: Path, title: str) -> bool:
    """Plot the logged `loss`, `val_loss` and `val_top1` over training steps.

    Args:
        history: The lines of the log.
        path: The image file to write.
        title: The title of the plot.

    Returns:
        Whether the plot was drawn; False if matplotlib, an optional dependency, is not installed.
    """
    figure = _make_figure(figsize=(9, 3.6))
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
    curves: Mapping[str, Sequence[tuple[float, float]]],
    dense: tuple[float, float],
    path: Path,
    cost_label: str,
    title: str,
    metric_label: str = "top-1, %",
) -> bool:
    """Plot a metric against cost: one curve per method, and a star for the dense model.

    Args:
        curves: For each method, its points `(cost, metric)`.
        dense: The point of the dense model.
        path: The image file to write.
        cost_label: The label of the cost axis.
        title: The title of the plot.
        metric_label: The label of the metric axis.

    Returns:
        Whether the plot was drawn; False if matplotlib, an optional dependency, is not installed.
    """
    figure = _make_figure(figsize=(7, 4.6))
    if figure is None:
        return False
    axes = figure.subplots()
    axes.set(title=title, xlabel=cost_label, ylabel=metric_label)
    styles = ("-", "--", ":")
    for index, (name, points) in enumerate(curves.items()):
        # The palette has ten colors; after that, vary the line style.
        axes.plot(*zip(*sorted(points), strict=True), marker=".", label=name, linestyle=styles[index // 10 % 3])
    axes.plot(*dense, marker="*", markersize=12, color="black", linestyle="none", label="dense")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    with atomic.write(path) as draft:
        figure.savefig(draft, dpi=120)
    return True
