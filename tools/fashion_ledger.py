"""Two tables: a benchmark's rows, a line for each method; and finetuned runs beside them.

python tools/fashion_ledger.py runs/fashion_benchmark runs/fashion_{gtp,tcvit,tome,evit}_{0,1,2}
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="the directory of a benchmark")
    parser.add_argument("runs", nargs="*", help="directories of finetuned runs")
    flags = parser.parse_args()
    rows = json.loads((Path(flags.benchmark) / "results.json").read_text())
    print(off_the_shelf(rows))
    if flags.runs:
        print()
        print(finetuned(rows, [json.loads((Path(run) / "summary.json").read_text()) for run in flags.runs]))


def off_the_shelf(rows: list[Row]) -> str:
    """A line for each method, a column for each budget; the best first."""
    dense = next(row for row in rows if row["reducer"] == "dense")
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    methods: dict[str, dict[float, Row]] = defaultdict(dict)
    for row in rows:
        methods[row["reducer"].partition("(")[0]][row["budget"]] = row
    del methods["dense"]
    shares = [f"{budget / dense['gmacs']:.0%}" for budget in budgets]
    lines = [
        f"| method | {' | '.join(f'top-1 at {share}' for share in shares)} | times dense | over the bound |",
        "|---|" + "---|" * (len(budgets) + 2),
        f"| dense | {_spread(dense)} |" + " |" * (len(budgets) + 1),
    ]
    for name, found in sorted(methods.items(), key=lambda item: -mean(row["top1"] for row in item[1].values())):
        last = found[budgets[-1]]
        cells = " | ".join(_spread(found[budget]) for budget in budgets)
        lines.append(f"| {name} | {cells} | {last['speedup']:.2f} | {last['overhead']:+.0%} |")
    return "\n".join(lines)


def finetuned(rows: list[Row], runs: list[Row]) -> str:
    """A line for each method: as it is off the shelf at the smallest budget, and after its runs."""
    from tcvit_jax.reducers import from_config

    budget = min(row["budget"] for row in rows)
    before = {row["reducer"].partition("(")[0]: row for row in rows if row["budget"] == budget}
    methods: dict[str, list[Row]] = defaultdict(list)
    for run in runs:
        methods[type(from_config(run["reducer"])).__name__].append(run)
    lines = ["| method | off the shelf | finetuned | GMACs |", "|---|---|---|---|"]
    for name, found in sorted(methods.items(), key=lambda item: -mean(run["top1"] for run in item[1])):
        top1 = [run["top1"] for run in found]
        after = _spread({"top1": mean(top1), "top1_low": min(top1), "top1_high": max(top1)})
        lines.append(f"| {name} | {_spread(before[name])} | {after} | {found[0]['gmacs']:.5f} |")
    return "\n".join(lines)


def _spread(row: Row) -> str:
    """The mean over seeds, and the lowest and the highest."""
    return f"{100 * row['top1']:.2f} ({100 * row['top1_low']:.2f} to {100 * row['top1_high']:.2f})"


if __name__ == "__main__":
    main()
