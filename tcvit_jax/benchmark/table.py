"""Results as JSON, CSV, Markdown and plots."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tcvit_jax import atomic
from tcvit_jax.benchmark.comparison import Comparison
from tcvit_jax.benchmark.timing import STAGES
from tcvit_jax.errors import invalid, unknown
from tcvit_jax.report.plots import draw_tradeoff

Row = dict[str, Any]
# The files that `write` writes.
FILES = ("results.json", "results.csv", "results.md", "accuracy_macs.png", "accuracy_speed.png")
VERSIONS = ("jax", "jaxlib", "flax", "numpy", "tcvit_jax", "python", "device")
# The columns of the results. Times are in seconds, memory is in bytes, and accuracies are in 0..1.
COLUMNS = (
    "model", "reducer", "budget", "schedule_family", "recipe", "seeds", "images", "top1", "top1_low", "top1_high",
    "top5", "difference", "difference_low", "difference_high", "gmacs", "gmacs_computed", "gmacs_reducer", "parameters",
    "tokens", "batch", "images_per_second", "images_per_second_p10", "images_per_second_p90", "speedup", "overhead",
    "latency", "latency_p10", "latency_p90", "compile_seconds", "memory", *(f"seconds_{stage}" for stage in STAGES),
    "rounds", *(f"version_{name}" for name in VERSIONS),
)  # fmt: skip


def check(rows: Sequence[Row]) -> None:
    """Check that each row has a finite, non-empty value in each column.

    Args:
        rows: The rows.

    Raises:
        InputError: A value is missing or not finite, or a column is unknown.
    """
    for row in rows:
        for column in COLUMNS:
            value = row.get(column)
            if value is None or value == "" or value == [] or (isinstance(value, float) and not math.isfinite(value)):
                raise invalid(f"row {row.get('reducer')} at {row.get('budget')} GMACs", f"column {column!r} is missing")
        for column in row:
            if column not in COLUMNS:
                raise unknown("column", column, COLUMNS)


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
    check(rows)
    json_name, csv_name, markdown_name, macs_name, speed_name = FILES
    atomic.write_json(path / json_name, rows)
    atomic.write_text(path / csv_name, as_csv(rows))
    atomic.write_text(path / markdown_name, as_markdown(rows))
    for name, column, label in (
        (macs_name, "gmacs", "GMACs per image"),
        (speed_name, "images_per_second", f"images/s, batch size {comparison.batch}"),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            # Each method is one line, even if calibration chose different parameters for each budget.
            lines.setdefault(row["reducer"].partition("(")[0], []).append((row[column], 100 * row["top1"]))
        dense = lines.pop("dense")
        draw_tradeoff(lines, dense[0], path / name, label, comparison.model.variant)


def as_csv(rows: Sequence[Row]) -> str:
    """Format rows as CSV; the items of lists are separated by spaces."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return file.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """Format the main columns as a Markdown table; the other files have all columns.

    Args:
        rows: The rows; the first is the dense model, and the second is the reference of paired differences.
    """
    first = rows[0]
    has_seeds = len(first["seeds"]) > 1
    headings = (
        "reducer", "top-1 %", "range over seeds" if has_seeds else "", f"difference to {rows[1]['reducer']} (95 % CI)",
        "top-5 %", "GMACs", "computed GMACs", "images/s (p10 to p90)", "speedup", "over the oracle slice",
        "latency, ms", "compile time, s", "memory, MiB", "tokens",
    )  # fmt: skip
    headings = tuple(heading for heading in headings if heading)
    lines = [_line(headings), "|" + "---|" * len(headings)]
    for row in rows:
        cells = [
            f"{row['reducer']}",
            f"{100 * row['top1']:.2f}",
            f"{100 * row['top1_low']:.2f} to {100 * row['top1_high']:.2f}" if has_seeds else None,
            f"{100 * row['difference']:+.2f} ({100 * row['difference_low']:+.2f} to "
            f"{100 * row['difference_high']:+.2f})",
            f"{100 * row['top5']:.2f}",
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
        lines.append(_line([cell for cell in cells if cell is not None]))
    versions = ", ".join(f"{name} {first[f'version_{name}']}" for name in VERSIONS)
    seeds = ", ".join(map(str, first["seeds"]))
    return (
        f"{first['model']}, {first['parameters']:,} parameters, {first['recipe']}; {first['images']:,} images, seeds "
        f"{seeds}; batch size {first['batch']}, {first['rounds']} rounds; {versions}.\n\n" + "\n".join(lines) + "\n"
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _format_tokens(tokens: Sequence[int]) -> str:
    """Format the number of patch tokens at the start and after each block; one number if it is constant."""
    return str(tokens[0]) if len(set(tokens)) == 1 else " ".join(map(str, tokens))
