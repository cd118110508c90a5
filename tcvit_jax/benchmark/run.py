"""Measure a subject, unit by unit, and put the rows together."""

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
from tcvit_jax.benchmark.store import Store
from tcvit_jax.benchmark.subject import Entry, Subject
from tcvit_jax.data import Batch
from tcvit_jax.measure import bound, ledger
from tcvit_jax.models import ViT
from tcvit_jax.ops.images import normalise
from tcvit_jax.reducers import from_config, to_config

# A split of fewer bytes than this, as it enters the model, is read once and kept.
_KEPT_BYTES = 2**30

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A subject, and where its measurements are kept."""

    subject: Subject
    store: Store
    say: Callable[[str], None] = print

    def run(self) -> list[Row]:
        """Measure what has not been measured, and write the tables and pictures.

        Returns:
            A row for every method and budget, dense ones included; each has every cell of `table.CELLS`.
        """
        rows = []
        for budget in self.subject.budgets:
            entries = self._entries(budget)
            found = [self._accuracy(entry) for entry in entries]
            timed = self._times(budget, entries)
            stages = [self._stages(entry) for entry in entries]
            rows += [
                self._row(entry, found[index], found[1], timed, index, stages[index])
                for index, entry in enumerate(entries)
            ]
        table.write(self.store.path, rows, self.subject)
        return rows

    def _entries(self, budget: float) -> tuple[Entry, ...]:
        """Dense and every reducer, with the parameters that were chosen for this budget."""
        if not self.subject.calibrate:
            return self.subject.entries(budget)

        def choose() -> dict[str, Any]:
            part = calibrate.training_part(self.subject, self.subject.calibrate)
            return {"reducers": [to_config(r) for r in calibrate.calibrated(self.subject, part, budget)]}

        self.say(f"{budget:.4g} GMACs: calibration")
        chosen = self.store.get(f"calibration at {budget!r}", choose)["reducers"]
        methods = [reducer for reducer in map(from_config, chosen) if reducer is not None]
        return self.subject.entries(budget, methods)

    def _accuracy(self, entry: Entry) -> Hits:
        unit = "accuracy of dense" if entry.reducer is None else f"accuracy of {entry.name} at {entry.budget!r}"
        self.say(f"{entry.budget:.4g} GMACs: {unit.partition(' at ')[0]}")
        return Hits.from_json(self.store.get(unit, lambda: self._hits(entry.model).to_json()))

    def _hits(self, model: ViT) -> Hits:
        subject = self.subject
        weights = [weights.variables for weights in subject.weights]
        return hits(model, subject.preprocessing, weights, self._batches(), sharding.data_mesh())

    def _batches(self) -> Iterator[Batch]:
        return iter(self._kept) if _fits(self.subject) else self.subject.data.batches()

    @cached_property
    def _kept(self) -> list[Batch]:
        return list(self.subject.data.batches())

    def _images(self, count: int) -> Array:
        """The first images of the split, over again if there are too few, as they enter the model."""
        found = np.asarray(next(self._batches())["image"])
        images = np.resize(found, (count, *found.shape[1:]))
        crop = self.subject.preprocessing
        return normalise(jnp.asarray(images), crop.mean, crop.std)

    def _times(self, budget: float, entries: Sequence[Entry]) -> dict[str, Any]:
        """Of all methods at one budget and their bounds, in turns: a batch, and one image alone."""

        def measure() -> dict[str, Any]:
            # Methods that keep as many tokens share a bound.
            bounds = {_bound_of(entry): bound(entry.model) for entry in entries if entry.reducer is not None}
            programs = [entry.model for entry in entries] + list(bounds.values())
            names = [entry.name for entry in entries] + list(bounds)
            values: dict[str, Any] = {"names": names}
            for label, count in (("batch", self.subject.batch), ("one", 1)):
                images, variables = self._images(count), self.subject.weights[0].variables
                compiled = [timing.compile_program(model.apply, variables, images) for model in programs]
                seconds = timing.in_turns(compiled, self.subject.rounds)
                values[label] = {
                    "seconds": seconds.T.tolist(),
                    "compile_seconds": [program.compile_seconds for program in compiled],
                    "memory": [program.memory for program in compiled],
                }
            return values

        self.say(f"{budget:.4g} GMACs: times of {len(entries)} models, {self.subject.rounds} rounds")
        return self.store.get(f"times at {budget!r}", measure)

    def _stages(self, entry: Entry) -> dict[str, float]:
        def measure() -> dict[str, Any]:
            images, variables = self._images(self.subject.batch), self.subject.weights[0].variables
            programs = timing.stage_programs(entry.model, variables, images)
            seconds = timing.in_turns(list(programs.values()), self.subject.rounds)
            return dict(zip(programs, np.median(seconds, axis=0).tolist(), strict=True))

        unit = "stages of dense" if entry.reducer is None else f"stages of {entry.name} at {entry.budget!r}"
        self.say(f"{entry.budget:.4g} GMACs: {unit.partition(' at ')[0]}")
        return self.store.get(unit, measure)

    def _row(
        self, entry: Entry, own: Hits, first: Hits, timed: dict[str, Any], index: int, stages: dict[str, float]
    ) -> Row:
        """Every cell of a row, from what was measured."""
        subject, costs = self.subject, ledger(entry.model)
        difference = paired_difference(own.top1, first.top1)
        top1, top5 = own.top1.mean(1), own.top5.mean(1)
        batch, one = (np.asarray(timed[label]["seconds"]) for label in ("batch", "one"))
        names = timed["names"]
        ideal = index if entry.reducer is None else names.index(_bound_of(entry))
        rate = subject.batch / batch[index]
        return {
            "model": subject.model.variant,
            "reducer": entry.name,
            "budget": entry.budget,
            "shape": "none" if entry.reducer is None else subject.shape.replace("method", entry.reducer.SHAPE),
            "recipe": _recipe(subject),
            "seeds": [weights.seed if weights.seed is not None else weights.name for weights in subject.weights],
            "images": own.top1.shape[1],
            "top1": float(top1.mean()),
            "top1_low": float(top1.min()),
            "top1_high": float(top1.max()),
            "top5": float(top5.mean()),
            "difference": difference.mean,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "gmacs": costs.total / 1e9,
            "gmacs_computed": costs.computed / 1e9,
            "gmacs_reducer": costs.cost.reducer / 1e9,
            "parameters": models.count_parameters(entry.model),
            "tokens": list(costs.tokens),
            "batch": subject.batch,
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
            "rounds": subject.rounds,
            **{f"version_{name}": value for name, value in subject.versions.items()},
        }


def _recipe(subject: Subject) -> str:
    found = "; ".join(dict.fromkeys(weights.recipe for weights in subject.weights))
    return f"{found}, calibrated on {subject.calibrate} training images" if subject.calibrate else found


def _fits(subject: Subject) -> bool:
    size = len(subject.data.source) * math.prod((*subject.model.img_size, subject.model.in_chans))
    return size <= _KEPT_BYTES


def _bound_of(entry: Entry) -> str:
    """The name of a model's bound: by the tokens that are left, not by those that leave, of which some come back."""
    return f"bound {list(entry.model.cost().tokens)}"
