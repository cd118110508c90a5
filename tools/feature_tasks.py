"""Compare reducers on a feature extractor by neighbors, retrieval and dense maps, and print one table per budget.

python tools/feature_tasks.py DIR --reducers all --macs-fraction 0.6 --out runs/feature_tasks

DIR holds `dinov2_small/` (a source of `tc.load`), `stamps/CLASS/*.png`, `photos/{a,b}/*.png` and
`saliency_decoder.safetensors`. The measurements are those of `python -m tcvit_jax.benchmark` with `--task knn`,
`retrieval` and `dense`, without its run times; `--rounds` measures images per second in turns. Differences are to the
first reducer, on the same images. The same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcvit_jax.command import Command, PathArgument, numbers

if TYPE_CHECKING:
    from tcvit_jax.benchmark.comparison import Comparison, Entry
    from tcvit_jax.benchmark.run import Benchmark
    from tcvit_jax.benchmark.store import Store

Row = dict[str, Any]
# The preprocessing of DINOv2, for images that already have the size of the model.
PREPROCESSING = {
    "data.mean": (0.485, 0.456, 0.406), "data.std": (0.229, 0.224, 0.225), "data.interpolation": "bicubic",
    "data.crop_pct": 1.0,
}  # fmt: skip
SIZE = 224
COLUMNS = {"knn": "1-NN, %", "retrieval": "recall at 1, %", "dense": "IoU, %"}


def comparisons(flags: argparse.Namespace) -> dict[str, Comparison]:
    """Return the comparison of each task, all with the same models."""
    from tcvit_jax import assembly
    from tcvit_jax.benchmark.comparison import build
    from tcvit_jax.errors import unknown
    from tcvit_jax.presets import parse
    from tcvit_jax.tasks.base import Task
    from tcvit_jax.tasks.dense import Dense
    from tcvit_jax.tasks.knn import Knn
    from tcvit_jax.tasks.retrieval import Retrieval

    root = Path(flags.directory)
    decoder = {"decoder": flags.decoder, "decoder_weights": str(root / "saliency_decoder.safetensors")}
    stamps = {"data.name": "folder", "data.dir": str(root), "data.eval_split": "stamps"}
    photos = {"data.name": "pairs", "data.dir": str(root / "photos")}
    tasks: dict[str, tuple[Task[Any], dict[str, str]]] = {
        "knn": (Knn(k=1, leave_one_out=True), stamps),
        "retrieval": (Retrieval(max_pairs=flags.max_pairs), photos),
        "dense": (Dense(max_pairs=flags.max_maps, **decoder), photos),
    }
    pretrained = assembly.from_checkpoint(root / "dinov2_small", (SIZE, SIZE))
    methods, names = parse(flags.reducers), flags.tasks.split(",")
    for name in names:
        if name not in COLUMNS:
            raise unknown("task", name, COLUMNS)
    fractions = numbers("--macs-fraction", flags.macs_fraction)
    return {
        name: build(
            [pretrained.updated({**PREPROCESSING, **data, "eval_batch_size": flags.batch})],
            [reducer for reducer, _ in methods], macs_fractions=fractions, schedule_family=flags.schedule_family,
            batch=flags.batch, task=task, has_bounds=not flags.no_bounds, families=[family for _, family in methods],
        )
        for name, (task, data) in tasks.items()
        if name in names
    }  # fmt: skip


def measure_times(store: Store, comparison: Comparison, entries: tuple[Entry, ...], rounds: int) -> list[float]:
    """Return the images per second of each entry, medians of rounds in turns."""
    import numpy as np

    from tcvit_jax.benchmark import timing
    from tcvit_jax.ops.images import normalize

    def measure() -> dict[str, Any]:
        programs: list[timing.Program] = []
        for entry in entries:
            subject = entry.subject
            images = np.asarray(next(subject.data.batches())["image"])
            inputs = normalize(images, subject.preprocessing.mean, subject.preprocessing.std)
            forward = comparison.task.forward(entry.model)
            programs.append(timing.compile_program(forward, subject.variables[0], inputs))
        return {"seconds": timing.time_interleaved(programs, rounds).tolist()}

    seconds = store.get(f"{rounds} rounds of {[entry.label for entry in entries]}", measure)["seconds"]
    return (len(next(entries[0].subject.data.batches())["image"]) / np.median(seconds, axis=0)).tolist()


def rows(benchmarks: dict[str, Benchmark], budget: float, rounds: int) -> list[Row]:
    """Return one row per reducer and bound at a budget."""
    from tcvit_jax.tasks.scores import paired_difference

    entries = {name: _entries(each.comparison, budget) for name, each in benchmarks.items()}
    first, *_ = entries.values()
    results = [{"reducer": entry.name, "gmacs": entry.model.cost().total / 1e9} for entry in first]
    for name, benchmark in benchmarks.items():
        scores = [benchmark.scores(entry) for entry in entries[name]]
        for index in range(len(first)):
            difference = paired_difference(scores[index].primary, scores[1].primary)
            means = {metric: float(values.mean()) for metric, values in scores[index].metrics.items()}
            results[index][name] = {**means, "difference": [difference.mean, difference.low, difference.high]}
    if rounds:
        benchmark, *_ = benchmarks.values()
        rates = measure_times(benchmark.store, benchmark.comparison, first, rounds)
        for row, rate in zip(results, rates, strict=True):
            row["images_per_second"] = rate
    return results


def _entries(comparison: Comparison, budget: float) -> tuple[Entry, ...]:
    return (*comparison.entries(budget), *comparison.bounds(budget)[0])


def as_markdown(values: list[Row]) -> str:
    """Format rows as a Markdown table."""
    from tcvit_jax.report import tables

    names = [name for name in COLUMNS if name in values[0]]
    with_cosine = [name for name in names if "cosine" in values[0][name]]
    has_rate = "images_per_second" in values[0]
    headings = ["reducer", *(item for name in names for item in (COLUMNS[name], "difference (95 % CI)"))]
    headings += [*(f"cosine, {name}" for name in with_cosine), "GMACs", *(["images/s"] if has_rate else [])]
    lines: list[list[str]] = []
    for row in values:
        cells = [row["reducer"]]
        for name in names:
            metric, *_ = row[name]
            mean, low, high = (100 * value for value in row[name]["difference"])
            cells += [f"{100 * row[name][metric]:.1f}", f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"]
        cells += [*(f"{row[name]['cosine']:.4f}" for name in with_cosine), f"{row['gmacs']:.3f}"]
        cells += [f"{row['images_per_second']:.1f}"] if has_rate else []
        lines.append(cells)
    return tables.as_markdown(headings, lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("directory", action=PathArgument, help="directory of the weights and images")
    parser.add_argument("--reducers", default="tome,gtp,tcvit", help="reducers, as for the benchmark")
    parser.add_argument("--macs-fraction", default="0.6", help="fractions of the MACs of the dense model")
    parser.add_argument("--schedule-family", default="keep_rate", help="as for the benchmark")
    parser.add_argument("--no-bounds", action="store_true", help="as for the benchmark")
    parser.add_argument("--tasks", default="knn,retrieval,dense", help="tasks to measure, of these three")
    parser.add_argument("--max-pairs", type=int, default=240, help="pairs of photos for retrieval")
    parser.add_argument("--max-maps", type=int, default=48, help="pairs of photos for dense maps")
    parser.add_argument("--batch", type=int, default=16, help="images per batch")
    parser.add_argument("--rounds", type=int, default=0, help="timed runs of each program, in turns; 0 for none")
    parser.add_argument("--decoder", default="examples.saliency_decoder:SaliencyDecoder", help="as for the benchmark")
    parser.add_argument("--out", default="runs/feature_tasks", action=PathArgument, help="output directory")


def run(flags: argparse.Namespace) -> None:
    """Measure and print a table for each budget."""
    from tcvit_jax import atomic, lock
    from tcvit_jax.benchmark.run import Benchmark
    from tcvit_jax.benchmark.store import Store

    with lock.hold(lock.in_directory(flags.out), flags.out, "set --out DIR to another directory"):
        benchmarks = {
            name: Benchmark(comparison, Store(Path(flags.out) / name, comparison.settings))
            for name, comparison in comparisons(flags).items()
        }
        first, *_ = benchmarks.values()
        budgets = first.comparison.budgets
        results = [rows(benchmarks, budget, flags.rounds) for budget in budgets]
    atomic.write_json(Path(flags.out) / "results.json", results)
    for budget, values in zip(budgets, results, strict=True):
        print(f"\n{budget:.4g} GMACs, {flags.schedule_family}\n\n{as_markdown(values)}")


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
