"""Results of a search as JSON, CSV and Markdown, and its preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tcvit_jax import atomic, presets
from tcvit_jax.report import tables
from tcvit_jax.search.space import Candidate

Row = dict[str, Any]
# The files that `write` writes.
FILES = ("results.json", "results.csv", "results.md", "preset.json")


def columns(metric: str) -> tuple[str, ...]:
    """Return the columns of the results. Values of metrics and differences are means over images, with 95 % intervals.

    Args:
        metric: The objective.
    """
    return (
        "reducer", "schedule_family", "rung", "images", metric, f"{metric}_low", f"{metric}_high", "difference",
        "difference_low", "difference_high", "nonfinite", "gmacs", "tokens",
    )  # fmt: skip


def write(
    path: Path, rows: Sequence[Row], metric: str, source: Mapping[str, Any], best: Candidate, notes: Sequence[str]
) -> None:
    """Write `results.json`, `results.csv`, `results.md` and `preset.json`.

    Args:
        path: The output directory.
        rows: The rows, the best candidate first.
        metric: The objective.
        source: What the candidates were chosen on.
        best: The best candidate.
        notes: Lines above the table in Markdown.

    Raises:
        InputError: A file cannot be written.
    """
    json_name, csv_name, markdown_name, preset_name = FILES
    atomic.write_json(path / json_name, rows)
    atomic.write_text(path / csv_name, tables.as_csv(rows, columns(metric)))
    atomic.write_text(path / markdown_name, as_markdown(rows, metric, notes))
    first = {name: rows[0][name] for name in columns(metric)[4:10]}
    presets.save(path / preset_name, best.reducer, best.family, {**source, **first})


def as_markdown(rows: Sequence[Row], metric: str, notes: Sequence[str] = ()) -> str:
    """Format the main columns as a Markdown table.

    Args:
        rows: The rows.
        metric: The objective.
        notes: Lines above the table.
    """
    headings = ("reducer", "schedule", "rung", "images", f"{metric} (95 % CI)", "difference (95 % CI)", "GMACs")
    cells = [
        (
            row["reducer"], row["schedule_family"], str(row["rung"]), f"{row['images']:,}",
            f"{row[metric]:.4f} ({row[f'{metric}_low']:.4f} to {row[f'{metric}_high']:.4f})",
            f"{row['difference']:+.4f} ({row['difference_low']:+.4f} to {row['difference_high']:+.4f})",
            f"{row['gmacs']:.4g}",
        )
        for row in rows
    ]  # fmt: skip
    return "\n\n".join([*notes, tables.as_markdown(headings, cells)]) + "\n"
