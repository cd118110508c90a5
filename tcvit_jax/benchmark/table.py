"""Results as JSON, CSV, Markdown and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tcvit_jax import atomic
from tcvit_jax.benchmark.comparison import DENSE, Comparison
from tcvit_jax.benchmark.timing import STAGES
from tcvit_jax.errors import invalid, unknown
from tcvit_jax.report import tables
from tcvit_jax.report.plots import draw_tradeoff

Row = dict[str, Any]
# The files that `write` writes.
FILES = ("results.json", "results.csv", "results.md", "accuracy_macs.png", "accuracy_speed.png")
VERSIONS = ("jax", "jaxlib", "flax", "numpy", "tcvit_jax", "python", "device")
# The columns before and after those of the metrics. Times are in seconds, memory is in bytes.
_FIRST_COLUMNS = (
    "model", "reducer", "budget", "schedule_family", "recipe", "seeds", "task", "images", "img_size",
)  # fmt: skip
_LAST_COLUMNS = (
    "difference", "difference_low", "difference_high", "gmacs", "gmacs_computed", "gmacs_reducer", "parameters",
    "tokens", "batch", "images_per_second", "images_per_second_p10", "images_per_second_p90", "speedup", "overhead",
    "latency", "latency_p10", "latency_p90", "compile_seconds", "memory", *(f"seconds_{stage}" for stage in STAGES),
    "rounds", *(f"version_{name}" for name in VERSIONS),
)  # fmt: skip


# The headings of metrics in Markdown. Values are percentages, but for the cosine.
_HEADINGS = {
    "top1": "top-1 %", "top5": "top-5 %", "recall1": "recall at 1, %", "recall5": "recall at 5, %", "iou": "IoU, %",
    "error": "error, %", "cosine": "cosine",
}  # fmt: skip


def columns(metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the results, with the means of metrics in 0..1 and the range of the first over seeds.

    Args:
        metrics: The names of the metrics.
    """
    first, *others = metrics
    return (*_FIRST_COLUMNS, first, f"{first}_low", f"{first}_high", *others, *_LAST_COLUMNS)


def check(rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """Check that each row has a finite, non-empty value in each column.

    Args:
        rows: The rows.
        metrics: The names of the metrics.

    Raises:
        InputError: A value is missing or not finite, or a column is unknown.
    """
    names = columns(metrics)
    for row in rows:
        for column in names:
            value = row.get(column)
            if value is None or value == "" or value == [] or (isinstance(value, float) and not math.isfinite(value)):
                raise invalid(f"row {row.get('reducer')} at {row.get('budget')} GMACs", f"column {column!r} is missing")
        for column in row:
            if column not in names:
                raise unknown("column", column, names)


def write(path: Path, rows: Sequence[Row], comparison: Comparison) -> None:
    """Write `results.json`, `results.csv` and `results.md`, and with matplotlib two plots.

    The plots are `accuracy_macs.png` and `accuracy_speed.png`.

    Args:
        path: The output directory.
        rows: The rows.
        comparison: The settings of the benchmark.

    Raises:
        InputError: A value is missing.
    """
    metrics = comparison.task.METRICS
    check(rows, metrics)
    json_name, csv_name, markdown_name, macs_name, speed_name = FILES
    atomic.write_json(path / json_name, rows)
    atomic.write_text(path / csv_name, as_csv(rows, metrics))
    atomic.write_text(path / markdown_name, as_markdown(rows, metrics))
    for name, column, label in (
        (macs_name, "gmacs", "GMACs per image"),
        (speed_name, "images_per_second", f"images/s, batch size {comparison.batch}"),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            lines.setdefault(method_name(row["reducer"]), []).append((row[column], 100 * row[metrics[0]]))
        dense = lines.pop(DENSE)
        heading = _HEADINGS[metrics[0]].removesuffix(" %").removesuffix(",")
        draw_tradeoff(lines, dense[0], path / name, label, comparison.model.variant, f"{heading}, %")


def method_name(name: str) -> str:
    """Return the method of a row, which has one line in a plot.

    Calibration may choose other parameters for each budget, and the dense model may have another resolution.

    Args:
        name: The column `reducer` of the row.
    """
    return "dense at a lower resolution" if name.startswith(f"{DENSE} at ") else name.partition("(")[0]


def as_csv(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Format rows as CSV; the items of lists are separated by spaces."""
    return tables.as_csv(rows, columns(metrics))


def as_markdown(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Format the main columns as a Markdown table; the other files have all columns.

    Args:
        rows: The rows; the first is the dense model, and the second is the reference of paired differences.
        metrics: The names of the metrics.
    """
    first, (primary, *others) = rows[0], metrics
    has_seeds = len(first["seeds"]) > 1
    headings = (
        "reducer", _HEADINGS[primary], "range over seeds" if has_seeds else "",
        f"difference to {rows[1]['reducer']} (95 % CI)",
        *(_HEADINGS[name] for name in others), "GMACs", "computed GMACs", "images/s (p10 to p90)", "speedup",
        "over the oracle slice",
        "latency, ms", "compile time, s", "memory, MiB", "tokens",
    )  # fmt: skip
    headings = tuple(heading for heading in headings if heading)
    lines: list[list[str]] = []
    for row in rows:
        cells = [
            f"{row['reducer']}",
            _format_metric(primary, row[primary]),
            f"{100 * row[f'{primary}_low']:.2f} to {100 * row[f'{primary}_high']:.2f}" if has_seeds else None,
            f"{100 * row['difference']:+.2f} ({100 * row['difference_low']:+.2f} to "
            f"{100 * row['difference_high']:+.2f})",
            *(_format_metric(name, row[name]) for name in others),
            f"{row['gmacs']:.4g}",
            f"{row['gmacs_computed']:.4g}",
            f"{row['images_per_second']:,.0f} ({row['images_per_second_p10']:,.0f} to "
            f"{row['images_per_second_p90']:,.0f})",
            f"{row['speedup']:.2f}",
            f"{row['overhead']:+.1%}",
            f"{1e3 * row['latency']:.2f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['memory'] / 2**20:.1f}",
            _format_tokens(row["tokens"]),
        ]
        lines.append([cell for cell in cells if cell is not None])
    versions = ", ".join(f"{name} {first[f'version_{name}']}" for name in VERSIONS)
    seeds = ", ".join(map(str, first["seeds"]))
    return (
        f"{first['model']}, {first['parameters']:,} parameters, {first['recipe']}; {first['images']:,} images, seeds "
        f"{seeds}; batch size {first['batch']}, {first['rounds']} rounds; {versions}.\n\n"
        f"{tables.as_markdown(headings, lines)}\n"
    )


def _format_metric(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "cosine" else f"{100 * value:.2f}"


def _format_tokens(tokens: Sequence[int]) -> str:
    """Format the number of patch tokens at the start and after each block; one number if it is constant."""
    return str(tokens[0]) if len(set(tokens)) == 1 else " ".join(map(str, tokens))
