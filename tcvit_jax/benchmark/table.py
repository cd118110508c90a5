"""Rows as files: JSON, CSV, Markdown, and two pictures."""

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
from tcvit_jax.errors import InputError
from tcvit_jax.report.plots import draw_tradeoff

Row = dict[str, Any]
VERSIONS = ("jax", "jaxlib", "flax", "numpy", "tcvit_jax", "python", "device")
# Every cell of a row, in the order of the files' columns. Seconds, bytes, images per second; shares in 0..1.
CELLS = (
    "model", "reducer", "budget", "schedule_family", "recipe", "seeds", "images", "top1", "top1_low", "top1_high", "top5",
    "difference", "difference_low", "difference_high", "gmacs", "gmacs_computed", "gmacs_reducer", "parameters",
    "tokens", "batch", "images_per_second", "images_per_second_p10", "images_per_second_p90", "speedup", "overhead",
    "latency", "latency_p10", "latency_p90", "compile_seconds", "memory", *(f"seconds_{stage}" for stage in STAGES),
    "rounds", *(f"version_{name}" for name in VERSIONS),
)  # fmt: skip


def check(rows: Sequence[Row]) -> None:
    """Every row has every cell, and a number where it should be one.

    Raises:
        InputError: the first cell that is missing.
    """
    for row in rows:
        for cell in CELLS:
            value = row.get(cell)
            if value is None or value == "" or value == [] or (isinstance(value, float) and not math.isfinite(value)):
                raise InputError(f"the row of {row.get('reducer')} at {row.get('budget')} GMACs has no {cell}")
        for cell in row:
            if cell not in CELLS:
                raise InputError(f"the row of {row.get('reducer')} has a cell nobody knows: {cell!r}")


def write(path: Path, rows: Sequence[Row], comparison: Comparison) -> None:
    """`results.json`, `.csv` and `.md`; `accuracy_macs.png` and `accuracy_speed.png` with matplotlib.

    Raises:
        InputError: a missing cell.
    """
    check(rows)
    atomic.write_json(path / "results.json", rows)
    atomic.write_text(path / "results.csv", as_csv(rows))
    atomic.write_text(path / "results.md", as_markdown(rows))
    for name, cell, label in (
        ("accuracy_macs.png", "gmacs", "GMACs an image"),
        ("accuracy_speed.png", "images_per_second", f"images per second, batches of {comparison.batch}"),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            # A method is one line, whatever was calibrate at each budget.
            lines.setdefault(row["reducer"].partition("(")[0], []).append((row[cell], 100 * row["top1"]))
        dense = lines.pop("dense")
        draw_tradeoff(lines, dense[0], path / name, label, comparison.model.variant)


def as_csv(rows: Sequence[Row]) -> str:
    """Comma-separated, lists with spaces."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CELLS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return file.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """A table for people; the rest is in the other files."""
    first = rows[0]
    several = len(first["seeds"]) > 1
    headings = (
        "reducer", "top-1 %", "lowest to highest" if several else "", f"against {rows[1]['reducer']}, 95 %", "top-5 %",
        "GMACs", "computed", "images/s (p10 to p90)", "times dense", "over the bound", "one image, ms", "compile s",
        "MiB", "tokens",
    )  # fmt: skip
    headings = tuple(heading for heading in headings if heading)
    lines = [_line(headings), "|" + "---|" * len(headings)]
    for row in rows:
        cells = [
            f"{row['reducer']}",
            f"{100 * row['top1']:.2f}",
            f"{100 * row['top1_low']:.2f} to {100 * row['top1_high']:.2f}" if several else None,
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
            _way(row["tokens"]),
        ]
        lines.append(_line([cell for cell in cells if cell is not None]))
    versions = ", ".join(f"{name} {first[f'version_{name}']}" for name in VERSIONS)
    seeds = ", ".join(map(str, first["seeds"]))
    return (
        f"{first['model']}, {first['parameters']:,} parameters, {first['recipe']}; {first['images']:,} images, seeds "
        f"{seeds}; batches of {first['batch']}, {first['rounds']} rounds; {versions}.\n\n" + "\n".join(lines) + "\n"
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _way(tokens: Sequence[int]) -> str:
    """Patch tokens at the start and after each block; one number where none leaves."""
    return str(tokens[0]) if len(set(tokens)) == 1 else " ".join(map(str, tokens))
