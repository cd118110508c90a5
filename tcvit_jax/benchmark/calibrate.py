"""A reducer's parameters, chosen on images that were trained on: never on those that accuracy is reported of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tcvit_jax import models, schedule, sharding
from tcvit_jax.benchmark.comparison import Comparison
from tcvit_jax.data import Batch, Example, Source, eval_batches, open_source
from tcvit_jax.errors import InputError
from tcvit_jax.evaluation import evaluate, make_eval_step
from tcvit_jax.models import ViT
from tcvit_jax.reducers import Reducer


@dataclass
class Part:
    """Some examples of a source, evenly spread over it: a source too."""

    source: Source
    count: int
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return self.source[index * len(self.source) // self.count]


def training_subset(comparison: Comparison, count: int) -> Part:
    """`count` images of the split that is trained on; slices of one split are compared by name alone.

    Raises:
        InputError: it is the split that is evaluated, or has fewer images.
    """
    data = comparison.config.data
    if data.train_split == data.eval_split:
        raise InputError(
            f"data.train_split={data.train_split!r} is the split that is evaluated: nothing to calibrate on"
        )
    source = open_source(data.name, data.train_split, data.dir)
    if not 0 < count <= len(source):
        raise InputError(
            f"calibrate={count} images of {data.train_split!r}, which has {len(source)}: use 1 or more of them"
        )
    return Part(source, count, source.classes)


def calibrate(comparison: Comparison, part: Part, budget: float) -> tuple[Reducer, ...]:
    """Every reducer of the comparison with the parameters that are best on `part`, at one budget.

    One parameter after the other, in the order of `Reducer.SEARCH_SPACE`, each to the value of the highest top-1; of equal
    ones to the lowest loss. With the first weights alone.
    """
    batches = list(_batches(comparison, part))
    return tuple(_calibrated(comparison, reducer, batches, budget) for reducer in comparison.reducers)


def _batches(comparison: Comparison, part: Part) -> Iterator[Batch]:
    data = comparison.data
    return eval_batches(part, data.transform, batch_size=data.batch_size, workers=data.workers)


def _calibrated(comparison: Comparison, reducer: Reducer, batches: list[Batch], budget: float) -> Reducer:
    mesh, plan = sharding.data_mesh(), schedule.budget(budget, family=comparison.schedule_family)
    variables = sharding.place_replicated(comparison.weights[0].variables, mesh)
    known: dict[Reducer, tuple[float, float]] = {}

    def quality(candidate: Reducer) -> tuple[float, float]:
        if candidate not in known:
            try:
                model: ViT = models.condense(comparison.model, candidate, plan)
            except InputError:
                # Its own products leave no room in this budget.
                known[candidate] = -1.0, 0.0
                return known[candidate]
            result = evaluate(make_eval_step(model, comparison.preprocessing, mesh), variables, batches, mesh)
            known[candidate] = result.top1, -result.loss
        return known[candidate]

    for name, values in reducer.SEARCH_SPACE.items():
        candidates = [reducer, *(replace(reducer, **{name: value}) for value in values)]
        reducer = max(candidates, key=quality)
    return reducer
