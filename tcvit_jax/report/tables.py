"""Tables as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Format rows as CSV; the items of lists are separated by spaces.

    Args:
        rows: The rows, which have all columns and no others.
        columns: The names of the columns.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    return file.getvalue()


def as_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format cells as a Markdown table.

    Args:
        headings: The headings of the columns.
        rows: The cells of each row.
    """
    return "\n".join([_line(headings), "|" + "---|" * len(headings), *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
