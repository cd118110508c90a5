"""Selection of reducer parameters on training images, which are never those that are evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tcvit_jax import models, schedule, sharding
from tcvit_jax.benchmark.comparison import Comparison
from tcvit_jax.data import Batch, Example, Source, eval_batches
from tcvit_jax.errors import InputError, out_of_range
from tcvit_jax.evaluation import evaluate, make_eval_step
from tcvit_jax.models import ViT
from tcvit_jax.reducers import Reducer


@dataclass
class Subset:
    """A source of evenly spaced examples of another source.

    Attributes:
        source: The full source.
        count: The number of examples.
        classes: The class names of the source.
    """

    source: Source
    count: int
    classes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """That of the source, with the number of examples."""
        return f"{self.source.fingerprint}[{self.count}]"

    @property
    def skipped(self) -> Mapping[str, int]:
        """Those of the source."""
        return self.source.skipped

    @property
    def is_in_memory(self) -> bool:
        """As the source."""
        return self.source.is_in_memory

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        return self.source[self.row(index)]

    def row(self, index: int) -> int:
        """Return the index in the full source of the example at `index`."""
        return index * len(self.source) // self.count


def training_subset(comparison: Comparison, count: int) -> Subset:
    """Return `count` images of the training split, evenly spaced.

    Args:
        comparison: A comparison with calibration.
        count: The number of images.

    Raises:
        InputError: The training split has fewer images.
    """
    data, source = comparison.config.data, comparison.train_source
    assert source is not None
    if not 0 < count <= len(source):
        hint = f"split {data.train_split!r} has {len(source):,} images"
        raise out_of_range("--calibrate", count, f"between 1 and {len(source)}", hint)
    return Subset(source, count, source.classes)


def calibrate(comparison: Comparison, subset: Subset, budget: float) -> tuple[Reducer, ...]:
    """Choose the parameters of each reducer of a comparison at one budget.

    Parameters are chosen one after the other, in the order of `Reducer.SEARCH_SPACE`: the value with the highest top-1,
    or among equal ones the lowest loss. Only the first weights of the comparison are evaluated.

    Args:
        comparison: The comparison.
        subset: The images to evaluate on.
        budget: The budget in units of 1e9 multiply-adds.

    Returns:
        The reducers with the chosen parameters.
    """
    batches = list(_batches(comparison, subset))
    return tuple(
        _calibrated(comparison, reducer, batches, schedule.budget(budget, family))
        for reducer, family in comparison.methods
    )


def _batches(comparison: Comparison, subset: Subset) -> Iterator[Batch]:
    data = comparison.data
    return eval_batches(subset, data.transform, batch_size=data.batch_size, workers=data.workers)


def _calibrated(comparison: Comparison, reducer: Reducer, batches: list[Batch], plan: schedule.budget) -> Reducer:
    mesh = sharding.data_mesh()
    variables = sharding.place_replicated(comparison.weights[0].variables, mesh)
    cache: dict[Reducer, tuple[float, float]] = {}

    def quality(candidate: Reducer) -> tuple[float, float]:
        if candidate not in cache:
            try:
                model: ViT = models.condense(comparison.model, candidate, plan)
            except InputError:
                # The overhead of the reducer exceeds this budget.
                cache[candidate] = -1.0, 0.0
                return cache[candidate]
            result = evaluate(make_eval_step(model, comparison.preprocessing, mesh), variables, batches, mesh)
            cache[candidate] = result.top1, -result.loss
        return cache[candidate]

    for name, values in reducer.SEARCH_SPACE.items():
        candidates = [reducer, *(variant for value in values if (variant := _variant(reducer, name, value)))]
        reducer = max(candidates, key=quality)
    return reducer


def _variant(reducer: Reducer, name: str, value: Any) -> Reducer | None:
    """Return the reducer with another value of a field, or None if it does not fit the other fields."""
    try:
        return replace(reducer, **{name: value})
    except InputError:
        return None
