"""Run of a benchmark: measurements of a comparison, combined into rows of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, TypedDict

import msgspec
import numpy as np
from jax import Array

from tcvit_jax import models, schema, sharding
from tcvit_jax.benchmark import calibrate, table, timing
from tcvit_jax.benchmark.accuracy import Hits, HitsJson, find_hits_problem, hits, paired_difference
from tcvit_jax.benchmark.comparison import Comparison, Entry
from tcvit_jax.benchmark.store import Store
from tcvit_jax.data import Batch
from tcvit_jax.evaluation import describe_nonfinite
from tcvit_jax.measure import ledger, oracle
from tcvit_jax.models import ViT
from tcvit_jax.ops.images import normalize
from tcvit_jax.reducers import from_config, to_config
from tcvit_jax.report.progress import ImageProgress, announce_slow

# A preprocessed split of up to this number of bytes is read once and cached.
_MAX_CACHED_BYTES = 2**30

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
            One row per method and budget, including the dense model, with all columns of `table.COLUMNS`.
        """
        rows = []
        for budget in self.comparison.budgets:
            entries = self._entries(budget)
            all_hits = [self._accuracy(entry) for entry in entries]
            times = self._times(budget, entries)
            stages = [self._stages(entry) for entry in entries]
            rows += [
                self._row(entry, all_hits[index], all_hits[1], times, index, stages[index])
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

    def _accuracy(self, entry: Entry) -> Hits:
        name = "accuracy of dense" if entry.reducer is None else f"accuracy of {entry.name} at {entry.budget!r}"
        self.log(f"{entry.budget:.4g} GMACs: {name.partition(' at ')[0]}")
        shape = len(self.comparison.weights), len(self.comparison.data.source)
        values = self.store.get(
            name, lambda: self._hits(entry.model).to_json(), HitsJson, lambda values: find_hits_problem(values, *shape)
        )
        result = Hits.from_json(values)
        if result.nonfinite:
            self.log(f"{name}: {describe_nonfinite(result.nonfinite, result.top1.shape[1])}")
        return result

    def _hits(self, model: ViT) -> Hits:
        comparison = self.comparison
        weights = [weights.variables for weights in comparison.weights]
        with ImageProgress("evaluation", len(comparison.data.source)) as progress:
            return hits(
                model, comparison.preprocessing, weights, self._batches(), sharding.data_mesh(), progress.update
            )

    def _batches(self) -> Iterator[Batch]:
        return iter(self._cached_batches) if _fits_in_cache(self.comparison) else self.comparison.data.batches()

    @cached_property
    def _cached_batches(self) -> list[Batch]:
        return list(self.comparison.data.batches())

    def _images(self, count: int) -> Array:
        """Return the first images of the split, normalized, and repeated if there are fewer than `count`."""
        first_images = np.asarray(next(self._batches())["image"])
        images = np.resize(first_images, (count, *first_images.shape[1:]))
        preprocessing = self.comparison.preprocessing
        return normalize(images, preprocessing.mean, preprocessing.std)

    def _times(self, budget: float, entries: Sequence[Entry]) -> dict[str, Any]:
        """Time all entries of a budget and their oracle slices, interleaved, for a batch and for a single image."""
        # Methods with the same number of tokens share an oracle slice.
        oracles = {_oracle_name(entry): oracle(entry.model) for entry in entries if entry.reducer is not None}
        names = [entry.name for entry in entries] + list(oracles)

        def measure() -> dict[str, Any]:
            timed_models = [entry.model for entry in entries] + list(oracles.values())
            values: dict[str, Any] = {"names": names}
            for label, count in (("batch", self.comparison.batch), ("one", 1)):
                images, variables = self._images(count), self.comparison.weights[0].variables
                with announce_slow(f"compiling {len(timed_models)} models"):
                    programs = [timing.compile_program(model.apply, variables, images) for model in timed_models]
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
            images, variables = self._images(self.comparison.batch), self.comparison.weights[0].variables
            with announce_slow(f"compiling the stages of {entry.name}"):
                programs = timing.stage_programs(entry.model, variables, images)
            seconds = timing.time_interleaved(list(programs.values()), self.comparison.rounds)
            return dict(zip(programs, np.median(seconds, axis=0).tolist(), strict=True))

        name = "stages of dense" if entry.reducer is None else f"stages of {entry.name} at {entry.budget!r}"
        self.log(f"{entry.budget:.4g} GMACs: {name.partition(' at ')[0]}")
        return self.store.get(name, measure, dict[str, schema.NotNegative])

    def _row(
        self, entry: Entry, method: Hits, reference: Hits, times: dict[str, Any], index: int, stages: dict[str, float]
    ) -> Row:
        """Return the row of an entry, which is number `index` in the times of its budget."""
        comparison, costs = self.comparison, ledger(entry.model)
        difference = paired_difference(method.top1, reference.top1)
        top1, top5 = method.top1.mean(1), method.top5.mean(1)
        batch, one = (np.asarray(times[label]["seconds"]) for label in ("batch", "one"))
        names = times["names"]
        oracle_index = index if entry.reducer is None else names.index(_oracle_name(entry))
        rate = comparison.batch / batch[index]
        return {
            "model": comparison.model.variant,
            "reducer": entry.name,
            "budget": entry.budget,
            "schedule_family": "none"
            if entry.reducer is None
            else comparison.schedule_family.replace("method", entry.reducer.DEFAULT_SCHEDULE),
            "recipe": _recipe(comparison),
            "seeds": [weights.seed if weights.seed is not None else weights.name for weights in comparison.weights],
            "images": method.top1.shape[1],
            "top1": float(top1.mean()),
            "top1_low": float(top1.min()),
            "top1_high": float(top1.max()),
            "top5": float(top5.mean()),
            "difference": difference.mean,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "gmacs": costs.total / 1e9,
            "gmacs_computed": costs.computed_macs / 1e9,
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


def _fits_in_cache(comparison: Comparison) -> bool:
    size = len(comparison.data.source) * math.prod((*comparison.model.img_size, comparison.model.in_chans))
    return size <= _MAX_CACHED_BYTES


def _oracle_name(entry: Entry) -> str:
    """Return the name of the oracle slice of an entry.

    The name holds the number of tokens after each block, since some reducers add fused tokens to those they keep.
    """
    return f"oracle {list(entry.model.cost().tokens)}"
