"""Print the results of a benchmark as one row per method, and a second table that compares finetuned runs.

python tools/fashion_ledger.py runs/fashion_benchmark runs/fashion_{gtp,tcvit,tome,evit}_{0,1,2}
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

from tcvit_jax.command import Command, PathArgument

Row: TypeAlias = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("benchmark", action=PathArgument, help="output directory of the benchmark")
    parser.add_argument("runs", nargs="*", action=PathArgument, help="directories of finetuned runs")


def run(flags: argparse.Namespace) -> None:
    """Print both tables."""
    rows = json.loads((Path(flags.benchmark) / "results.json").read_text())
    print(off_the_shelf_table(rows))
    if flags.runs:
        print()
        print(finetuned_table(rows, [json.loads((Path(run) / "summary.json").read_text()) for run in flags.runs]))


def off_the_shelf_table(rows: list[Row]) -> str:
    """Return a table with a row for each method and a column for each budget, best method first.

    Args:
        rows: The rows of the benchmark.

    Returns:
        The table in Markdown.
    """
    from tcvit_jax.benchmark.table import method_name

    dense = next(row for row in rows if row["reducer"] == "dense")
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    methods: dict[str, dict[float, Row]] = defaultdict(dict)
    for row in rows:
        methods[method_name(row["reducer"])][row["budget"]] = row
    del methods["dense"]
    columns = [f"top-1 at {budget / dense['gmacs']:.0%}" for budget in budgets]
    lines = [
        f"| method | {' | '.join(columns)} | speedup | over the oracle slice |",
        "|---|" + "---|" * (len(budgets) + 2),
        f"| dense | {_spread(dense)} |" + " |" * (len(budgets) + 1),
    ]
    for name, by_budget in sorted(methods.items(), key=lambda item: -mean(row["top1"] for row in item[1].values())):
        last = by_budget[budgets[-1]]
        cells = " | ".join(_spread(by_budget[budget]) for budget in budgets)
        lines.append(f"| {name} | {cells} | {last['speedup']:.2f} | {last['overhead']:+.0%} |")
    return "\n".join(lines)


def finetuned_table(rows: list[Row], runs: list[Row]) -> str:
    """Return a table with a row for each method: off the shelf at the smallest budget, and finetuned.

    Args:
        rows: The rows of the benchmark.
        runs: The summaries of the finetuned runs.

    Returns:
        The table in Markdown.
    """
    from tcvit_jax.benchmark.table import method_name
    from tcvit_jax.reducers import from_config

    budget = min(row["budget"] for row in rows)
    before = {method_name(row["reducer"]): row for row in rows if row["budget"] == budget}
    methods: dict[str, list[Row]] = defaultdict(list)
    for run in runs:
        methods[type(from_config(run["reducer"])).__name__].append(run)
    lines = ["| method | off the shelf | finetuned | GMACs |", "|---|---|---|---|"]
    for name, method_runs in sorted(methods.items(), key=lambda item: -mean(run["top1"] for run in item[1])):
        top1 = [run["top1"] for run in method_runs]
        after = _spread({"top1": mean(top1), "top1_low": min(top1), "top1_high": max(top1)})
        lines.append(f"| {name} | {_spread(before[name])} | {after} | {method_runs[0]['gmacs']:.5f} |")
    return "\n".join(lines)


def _spread(row: Row) -> str:
    """Return the mean over seeds with the lowest and the highest, in percent."""
    return f"{100 * row['top1']:.2f} ({100 * row['top1_low']:.2f} to {100 * row['top1_high']:.2f})"


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
