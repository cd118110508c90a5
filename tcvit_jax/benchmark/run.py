"""Measure a comparison, unit by unit, and put the rows together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from tcvit_jax import models, sharding
from tcvit_jax.benchmark import calibrate, table, timing
from tcvit_jax.benchmark.accuracy import Hits, hits, paired_difference
from tcvit_jax.benchmark.comparison import Comparison, Entry
from tcvit_jax.benchmark.store import Store
from tcvit_jax.data import Batch
from tcvit_jax.measure import ledger, oracle
from tcvit_jax.models import ViT
from tcvit_jax.ops.images import normalize
from tcvit_jax.reducers import from_config, to_config

# A split of fewer bytes than this, as it enters the model, is read once and kept.
_KEPT_BYTES = 2**30

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A comparison, and where its measurements are kept."""

    comparison: Comparison
    store: Store
    log: Callable[[str], None] = print

    def run(self) -> list[Row]:
        """Measure what has not been measured, and write the tables and pictures.

        Returns:
            A row for every method and budget, dense ones included; each has every cell of `table.CELLS`.
        """
        rows = []
        for budget in self.comparison.budgets:
            entries = self._entries(budget)
            found = [self._accuracy(entry) for entry in entries]
            timed = self._times(budget, entries)
            stages = [self._stages(entry) for entry in entries]
            rows += [
                self._row(entry, found[index], found[1], timed, index, stages[index])
                for index, entry in enumerate(entries)
            ]
        table.write(self.store.path, rows, self.comparison)
        return rows

    def _entries(self, budget: float) -> tuple[Entry, ...]:
        """Dense and every reducer, with the parameters that were chosen for this budget."""
        if not self.comparison.calibrate:
            return self.comparison.entries(budget)

        def choose() -> dict[str, Any]:
            part = calibrate.training_subset(self.comparison, self.comparison.calibrate)
            return {"reducers": [to_config(r) for r in calibrate.calibrate(self.comparison, part, budget)]}

        self.log(f"{budget:.4g} GMACs: calibration")
        chosen = self.store.get(f"calibration at {budget!r}", choose)["reducers"]
        methods = [reducer for reducer in map(from_config, chosen) if reducer is not None]
        return self.comparison.entries(budget, methods)

    def _accuracy(self, entry: Entry) -> Hits:
        unit = "accuracy of dense" if entry.reducer is None else f"accuracy of {entry.name} at {entry.budget!r}"
        self.log(f"{entry.budget:.4g} GMACs: {unit.partition(' at ')[0]}")
        return Hits.from_json(self.store.get(unit, lambda: self._hits(entry.model).to_json()))

    def _hits(self, model: ViT) -> Hits:
        comparison = self.comparison
        weights = [weights.variables for weights in comparison.weights]
        return hits(model, comparison.preprocessing, weights, self._batches(), sharding.data_mesh())

    def _batches(self) -> Iterator[Batch]:
        return iter(self._kept) if _fits(self.comparison) else self.comparison.data.batches()

    @cached_property
    def _kept(self) -> list[Batch]:
        return list(self.comparison.data.batches())

    def _images(self, count: int) -> Array:
        """The first images of the split, over again if there are too few, as they enter the model."""
        found = np.asarray(next(self._batches())["image"])
        images = np.resize(found, (count, *found.shape[1:]))
        crop = self.comparison.preprocessing
        return normalize(jnp.asarray(images), crop.mean, crop.std)

    def _times(self, budget: float, entries: Sequence[Entry]) -> dict[str, Any]:
        """Of all methods at one budget and their bounds, in turns: a batch, and one image alone."""

        def measure() -> dict[str, Any]:
            # Methods that keep as many tokens share a bound.
            bounds = {_oracle_name(entry): oracle(entry.model) for entry in entries if entry.reducer is not None}
            programs = [entry.model for entry in entries] + list(bounds.values())
            names = [entry.name for entry in entries] + list(bounds)
            values: dict[str, Any] = {"names": names}
            for label, count in (("batch", self.comparison.batch), ("one", 1)):
                images, variables = self._images(count), self.comparison.weights[0].variables
                compiled = [timing.compile_program(model.apply, variables, images) for model in programs]
                seconds = timing.time_interleaved(compiled, self.comparison.rounds)
                values[label] = {
                    "seconds": seconds.T.tolist(),
                    "compile_seconds": [program.compile_seconds for program in compiled],
                    "memory": [program.memory for program in compiled],
                }
            return values

        self.log(f"{budget:.4g} GMACs: times of {len(entries)} models, {self.comparison.rounds} rounds")
        return self.store.get(f"times at {budget!r}", measure)

    def _stages(self, entry: Entry) -> dict[str, float]:
        def measure() -> dict[str, Any]:
            images, variables = self._images(self.comparison.batch), self.comparison.weights[0].variables
            programs = timing.stage_programs(entry.model, variables, images)
            seconds = timing.time_interleaved(list(programs.values()), self.comparison.rounds)
            return dict(zip(programs, np.median(seconds, axis=0).tolist(), strict=True))

        unit = "stages of dense" if entry.reducer is None else f"stages of {entry.name} at {entry.budget!r}"
        self.log(f"{entry.budget:.4g} GMACs: {unit.partition(' at ')[0]}")
        return self.store.get(unit, measure)

    def _row(
        self, entry: Entry, own: Hits, first: Hits, timed: dict[str, Any], index: int, stages: dict[str, float]
    ) -> Row:
        """Every cell of a row, from what was measured."""
        comparison, costs = self.comparison, ledger(entry.model)
        difference = paired_difference(own.top1, first.top1)
        top1, top5 = own.top1.mean(1), own.top5.mean(1)
        batch, one = (np.asarray(timed[label]["seconds"]) for label in ("batch", "one"))
        names = timed["names"]
        ideal = index if entry.reducer is None else names.index(_oracle_name(entry))
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
            "images": own.top1.shape[1],
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
            "overhead": float(np.median(batch[index] / batch[ideal]) - 1),
            "latency": float(np.median(one[index])),
            "latency_p10": float(np.percentile(one[index], 10)),
            "latency_p90": float(np.percentile(one[index], 90)),
            "compile_seconds": timed["batch"]["compile_seconds"][index],
            "memory": timed["batch"]["memory"][index],
            # A dense model has neither plan nor application, and they take no time.
            **{f"seconds_{stage}": stages.get(stage, 0.0) for stage in timing.STAGES},
            "rounds": comparison.rounds,
            **{f"version_{name}": value for name, value in comparison.versions.items()},
        }


def _recipe(comparison: Comparison) -> str:
    found = "; ".join(dict.fromkeys(weights.recipe for weights in comparison.weights))
    return f"{found}, calibrate on {comparison.calibrate} training images" if comparison.calibrate else found


def _fits(comparison: Comparison) -> bool:
    size = len(comparison.data.source) * math.prod((*comparison.model.img_size, comparison.model.in_chans))
    return size <= _KEPT_BYTES


def _oracle_name(entry: Entry) -> str:
    """The name of a model's bound: by the tokens that are left, not by those that leave, of which some come back."""
    return f"bound {list(entry.model.cost().tokens)}"
