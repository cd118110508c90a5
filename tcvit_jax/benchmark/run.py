"""Run of a benchmark: measurements of a comparison, combined into rows of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np
from jax import Array

from tcvit_jax import models, schema, sharding
from tcvit_jax.benchmark import calibrate, table, timing
from tcvit_jax.benchmark.comparison import Comparison, Entry
from tcvit_jax.benchmark.store import Store
from tcvit_jax.evaluation import describe_nonfinite
from tcvit_jax.measure import ledger, oracle
from tcvit_jax.ops.images import normalize
from tcvit_jax.reducers import from_config, to_config
from tcvit_jax.report.progress import announce_slow
from tcvit_jax.tasks.base import Subject
from tcvit_jax.tasks.scores import Scores, ScoresJson, find_scores_problem, paired_difference

Row = dict[str, Any]


class _Calibration(TypedDict):
    reducers: list[dict[str, Any]]


class _Times(TypedDict):
    seconds: list[list[schema.NotNegative]]
    compile_seconds: list[schema.NotNegative]
    memory: list[Annotated[int, msgspec.Meta(ge=0)]]


class _AllTimes(TypedDict):
    names: list[str]
    batch: _Times
    one: _Times


def _find_times_problem(values: Mapping[str, Any], names: Sequence[str], rounds: int) -> str | None:
    """Return what is wrong with stored times of the models `names`, or None."""
    if values["names"] != list(names):
        return f"expected the times of {', '.join(names)}"
    for label in ("batch", "one"):
        times = values[label]
        lengths = [len(times[key]) for key in ("seconds", "compile_seconds", "memory")]
        if lengths != 3 * [len(names)] or {len(each) for each in times["seconds"]} != {rounds}:
            return f"expected the times of {len(names)} models in {rounds} rounds"
    return None


@dataclass(frozen=True)
class Benchmark:
    """A comparison and the store of its measurements.

    Attributes:
        comparison: The comparison.
        store: The store of the measurements.
        log: A function that is called with each line of progress.
    """

    comparison: Comparison
    store: Store
    log: Callable[[str], None] = print

    def run(self) -> list[Row]:
        """Make all measurements that are not in the store, and write tables and plots.

        Returns:
            One row per method and budget, including the dense model, with all columns of `table.columns`.
        """
        rows = []
        for budget in self.comparison.budgets:
            bounds, notes = self.comparison.bounds(budget)
            for note in notes:
                self.log(f"{budget:.4g} GMACs: {note}")
            entries = (*self._entries(budget), *bounds)
            scores = [self.scores(entry) for entry in entries]
            times = self._times(budget, entries)
            stages = [self._stages(entry) for entry in entries]
            rows += [
                self._row(entry, scores[index], scores[1], times, index, stages[index])
                for index, entry in enumerate(entries)
            ]
        table.write(self.store.path, rows, self.comparison)
        return rows

    def _entries(self, budget: float) -> tuple[Entry, ...]:
        """Return the entries of a budget, with calibrated reducers if requested."""
        if not self.comparison.calibrate:
            return self.comparison.entries(budget)

        def choose() -> dict[str, Any]:
            subset = calibrate.training_subset(self.comparison, self.comparison.calibrate)
            return {"reducers": [to_config(r) for r in calibrate.calibrate(self.comparison, subset, budget)]}

        self.log(f"{budget:.4g} GMACs: calibration")
        configs = self.store.get(f"calibration at {budget!r}", choose, _Calibration)["reducers"]
        methods = [reducer for reducer in map(from_config, configs) if reducer is not None]
        return self.comparison.entries(budget, methods)

    def scores(self, entry: Entry) -> Scores:
        """Return the scores of an entry on the task, from the store or measured now."""
        name, task = f"accuracy of {entry.label}", self.comparison.task
        self.log(f"{entry.budget:.4g} GMACs: accuracy of {entry.name}")
        shape = len(self.comparison.weights), len(self.comparison.data.source)
        values = self.store.get(
            name, lambda: self._measure_scores(entry.subject).to_json(), ScoresJson,
            lambda values: find_scores_problem(values, task.METRICS, *shape),
        )  # fmt: skip
        result = Scores.from_json(values)
        if result.nonfinite:
            outputs = "logits" if task.NEEDS_CLASSIFIER else "outputs"
            self.log(f"{name}: {describe_nonfinite(result.nonfinite, result.examples, outputs)}")
        return result

    def _measure_scores(self, subject: Subject) -> Scores:
        task = self.comparison.task
        is_reference = task.compares_with_dense and subject is self.comparison.dense
        outputs = self._reference if is_reference else task.outputs(subject, sharding.data_mesh())
        return task.scores(outputs, self._reference)

    @cached_property
    def _reference(self) -> Any:
        """What the outputs of all entries are compared with."""
        return self.comparison.task.reference(self.comparison.dense, sharding.data_mesh())

    @cached_property
    def _first_images(self) -> dict[tuple[int, int], np.ndarray]:
        """The first batch of images by their size, which many programs are timed on."""
        return {}

    def _images(self, subject: Subject, count: int) -> Array:
        """Return the first images of the split, normalized, and repeated if there are fewer than `count`."""
        size = subject.model.img_size
        if size not in self._first_images:
            self._first_images[size] = np.asarray(next(subject.data.batches())["image"])
        first_images = self._first_images[size]
        images = np.resize(first_images, (count, *first_images.shape[1:]))
        return normalize(images, subject.preprocessing.mean, subject.preprocessing.std)

    def _times(self, budget: float, entries: Sequence[Entry]) -> dict[str, Any]:
        """Time all entries of a budget and their oracle slices, interleaved, for a batch and for a single image."""
        # Methods with the same number of tokens share an oracle slice.
        oracles = {_oracle_name(entry): oracle(entry.model) for entry in entries if entry.reducer is not None}
        names = [entry.name for entry in entries] + list(oracles)

        def measure() -> dict[str, Any]:
            dense = self.comparison.dense
            subjects = [entry.subject for entry in entries]
            subjects += [replace(dense, model=model) for model in oracles.values()]
            values: dict[str, Any] = {"names": names}
            for label, count in (("batch", self.comparison.batch), ("one", 1)):
                with announce_slow(f"compiling {len(subjects)} models"):
                    programs = [
                        timing.compile_program(
                            self.comparison.task.forward(each.model), each.variables[0], self._images(each, count)
                        )
                        for each in subjects
                    ]
                seconds = timing.time_interleaved(programs, self.comparison.rounds)
                values[label] = {
                    "seconds": seconds.T.tolist(),
                    "compile_seconds": [program.compile_seconds for program in programs],
                    "memory": [program.memory for program in programs],
                }
            return values

        self.log(f"{budget:.4g} GMACs: run times of {len(entries)} models, {self.comparison.rounds} rounds")
        return self.store.get(
            f"times at {budget!r}", measure, _AllTimes,
            lambda values: _find_times_problem(values, names, self.comparison.rounds),
        )  # fmt: skip

    def _stages(self, entry: Entry) -> dict[str, float]:
        def measure() -> dict[str, Any]:
            subject = entry.subject
            images = self._images(subject, self.comparison.batch)
            with announce_slow(f"compiling the stages of {entry.name}"):
                programs = timing.stage_programs(entry.model, subject.variables[0], images)
            seconds = timing.time_interleaved(list(programs.values()), self.comparison.rounds)
            return dict(zip(programs, np.median(seconds, axis=0).tolist(), strict=True))

        self.log(f"{entry.budget:.4g} GMACs: stages of {entry.name}")
        return self.store.get(f"stages of {entry.label}", measure, dict[str, schema.NotNegative])

    def _row(
        self,
        entry: Entry,
        method: Scores,
        reference: Scores,
        times: dict[str, Any],
        index: int,
        stages: dict[str, float],
    ) -> Row:
        """Return the row of an entry, which is number `index` in the times of its budget."""
        comparison, costs = self.comparison, ledger(entry.model)
        difference = paired_difference(method.primary, reference.primary)
        primary, *_ = method.metrics
        means = {name: rows.mean(1, dtype=np.float64) for name, rows in method.metrics.items()}
        batch, one = (np.asarray(times[label]["seconds"]) for label in ("batch", "one"))
        names = times["names"]
        oracle_index = index if entry.reducer is None else names.index(_oracle_name(entry))
        rate = comparison.batch / batch[index]
        return {
            "model": comparison.model.variant,
            "reducer": entry.name,
            "budget": entry.budget,
            "schedule_family": entry.family,
            "recipe": _recipe(comparison),
            "seeds": [weights.seed if weights.seed is not None else weights.name for weights in comparison.weights],
            "task": comparison.task.NAME,
            "images": method.examples,
            "img_size": list(entry.model.img_size),
            **{name: float(mean.mean()) for name, mean in means.items()},
            f"{primary}_low": float(means[primary].min()),
            f"{primary}_high": float(means[primary].max()),
            "difference": difference.mean,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "gmacs": costs.total / 1e9,
            "gmacs_computed": comparison.task.computed_macs(entry.model) / 1e9,
            "gmacs_reducer": costs.cost.reducer / 1e9,
            "parameters": models.count_parameters(entry.model),
            "tokens": list(costs.tokens),
            "batch": comparison.batch,
            "images_per_second": float(np.median(rate)),
            "images_per_second_p10": float(np.percentile(rate, 10)),
            "images_per_second_p90": float(np.percentile(rate, 90)),
            "speedup": float(np.median(batch[0] / batch[index])),
            "overhead": float(np.median(batch[index] / batch[oracle_index]) - 1),
            "latency": float(np.median(one[index])),
            "latency_p10": float(np.percentile(one[index], 10)),
            "latency_p90": float(np.percentile(one[index], 90)),
            "compile_seconds": times["batch"]["compile_seconds"][index],
            "memory": times["batch"]["memory"][index],
            # The plan and apply stages of the dense model, which do not exist, count as 0 seconds.
            **{f"seconds_{stage}": stages.get(stage, 0.0) for stage in timing.STAGES},
            "rounds": comparison.rounds,
            **{f"version_{name}": value for name, value in comparison.versions.items()},
        }


def _recipe(comparison: Comparison) -> str:
    recipes = "; ".join(dict.fromkeys(weights.recipe for weights in comparison.weights))
    return f"{recipes}, calibrated on {comparison.calibrate:,} training images" if comparison.calibrate else recipes


def _oracle_name(entry: Entry) -> str:
    """Return the name of the oracle slice of an entry.

    The name holds the number of tokens after each block, since some reducers add fused tokens to those they keep.
    """
    return f"oracle {list(entry.model.cost().tokens)}"
