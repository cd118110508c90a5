"""Run of a search: measurements of candidates by successive halving, combined into rows of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tcvit_jax import sharding
from tcvit_jax.benchmark.store import Store
from tcvit_jax.search import table
from tcvit_jax.search.halving import halve
from tcvit_jax.search.programs import release_programs, stored_programs
from tcvit_jax.search.settings import Settings
from tcvit_jax.search.space import Candidate, describe_left_out
from tcvit_jax.tasks.base import Subject
from tcvit_jax.tasks.scores import Scores, ScoresJson, find_scores_problem, paired_difference


@dataclass(frozen=True)
class Search:
    """The settings of a search and the store of its measurements.

    Attributes:
        settings: The settings.
        store: The store of the measurements.
        log: A function that is called with each line of progress.
    """

    settings: Settings
    store: Store
    log: Callable[[str], None] = print
    # The values of each candidate on each number of images.
    _scores: dict[tuple[str, int], Scores] = field(default_factory=dict[tuple[str, int], Scores], init=False)

    def run(self) -> list[table.Row]:
        """Make all measurements that are not in the store, and write the table and the preset.

        Returns:
            One row per candidate, the best first, and a last one for the reference if it is no candidate.
        """
        settings = self.settings
        with stored_programs(self.store.path / "compiled"):
            ranking = halve(settings.candidates, settings.counts, settings.eta, self._measure_rung, _macs)
        rows: list[table.Row] = []
        names: set[str] = set()
        for rung, candidates in reversed(list(enumerate(ranking, 1))):
            # Those that reached a later rung have a row.
            rows += [self._row(each, rung) for each in candidates if each.name not in names]
            names.update(candidate.name for candidate in candidates)
        if settings.reference.name not in names:
            rows.append(self._row(settings.reference, len(ranking)))
        table.write(
            self.store.path, rows, settings.objective.metric, settings.source, ranking[-1][0], self._notes()
        )  # fmt: skip
        return rows

    def _measure_rung(self, candidates: Sequence[Candidate], images: int) -> list[float]:
        """Measure candidates and the reference on a number of images, and return the objectives of the candidates."""
        settings, rung = self.settings, _Rung(self.settings, self.store, images)
        title = f"rung {settings.counts.index(images) + 1} of {len(settings.counts)}, {images} images"
        for index, candidate in enumerate(candidates, 1):
            self.log(f"{title}: candidate {index} of {len(candidates)}: {candidate.name}")
            self._scores[candidate.name, images] = rung.scores(candidate)
        reference = settings.reference
        if (reference.name, images) not in self._scores:
            self.log(f"{title}: reference {reference.name}")
            self._scores[reference.name, images] = rung.scores(reference)
        return [float(self._scores[each.name, images].primary.mean(dtype=np.float64)) for each in candidates]

    def _row(self, candidate: Candidate, rung: int) -> table.Row:
        """Return the row of a candidate with its values on the images of a rung, from 1."""
        images, metric = self.settings.counts[rung - 1], self.settings.objective.metric
        scores = self._scores[candidate.name, images]
        values, reference = scores.primary, self._scores[self.settings.reference.name, images].primary
        mean = paired_difference(values, np.zeros(values.shape))
        difference = paired_difference(values, reference)
        return {
            "reducer": repr(candidate.reducer),
            "schedule_family": candidate.family,
            "rung": rung,
            "images": images,
            metric: mean.mean,
            f"{metric}_low": mean.low,
            f"{metric}_high": mean.high,
            "difference": difference.mean,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "nonfinite": scores.nonfinite,
            "gmacs": candidate.macs / 1e9,
            "tokens": list(candidate.model.cost().tokens),
        }

    def _notes(self) -> list[str]:
        settings, source = self.settings, self.settings.source
        return [
            f"{source['model']}, {settings.objective.metric} on {source['images']:,} images of {source['data']}, split "
            f"{source['split']!r}, at {settings.gmacs:.4g} GMACs. {source['candidates']:,} candidates, rungs of "
            f"{', '.join(map(str, settings.counts))} images. Differences to {settings.reference.name}, on the same "
            "images.",
            *describe_left_out(settings.left_out),
        ]


def _macs(candidate: Candidate) -> float:
    return candidate.macs


@dataclass(frozen=True)
class _Rung:
    """The measurements on one number of images.

    Attributes:
        settings: The settings of the search.
        store: The store of the measurements.
        images: The number of images.
    """

    settings: Settings
    store: Store
    images: int

    def scores(self, candidate: Candidate) -> Scores:
        """Return the stored values of a candidate, or measure them."""
        metric = self.settings.objective.metric
        values = self.store.get(
            f"{candidate.name} on {self.images} images", lambda: self._measure(candidate).to_json(), ScoresJson,
            lambda values: find_scores_problem(values, (metric,), 1, self.images),
        )  # fmt: skip
        return Scores.from_json(values)

    def _measure(self, candidate: Candidate) -> Scores:
        objective, reference = self.settings.objective, self._reference
        outputs = objective.task.outputs(replace(self._dense, model=candidate.model), sharding.data_mesh())
        scores = objective.scores(outputs, reference)
        release_programs()
        return scores

    @cached_property
    def _dense(self) -> Subject:
        settings = self.settings
        model, pretrained, data = settings.model, settings.pretrained, settings.calibration.rung(self.images)
        return Subject(model, [pretrained.variables], pretrained.preprocessing, data, None, model.grid)

    @cached_property
    def _reference(self) -> Any:
        """The outputs of the dense model, which others are compared with."""
        return self.settings.objective.task.reference(self._dense, sharding.data_mesh())
