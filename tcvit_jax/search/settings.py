"""The settings of a search: a model, its candidates at one budget, what is maximized, and the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tcvit_jax import checkpoint, models, schedule
from tcvit_jax.assembly import Pretrained, SplitRecord
from tcvit_jax.benchmark.comparison import versions
from tcvit_jax.errors import InputError, check_range, invalid, out_of_range
from tcvit_jax.models import ViT
from tcvit_jax.reducers import ToMe
from tcvit_jax.report.progress import announce_slow
from tcvit_jax.search.calibration import Calibration, open_calibration
from tcvit_jax.search.halving import rungs
from tcvit_jax.search.objective import Objective, choose
from tcvit_jax.search.space import Candidate, Space
from tcvit_jax.tasks.base import Task


@dataclass(frozen=True)
class Settings:
    """The settings of a search.

    Attributes:
        pretrained: The model, its weights and its data.
        model: The dense model.
        task: The task of the command line.
        objective: What is maximized.
        calibration: The images that are measured.
        space: The reducers and schedule families.
        gmacs: The budget in units of 1e9 multiply-adds.
        counts: The number of images of each rung.
        eta: A rung passes on `1 / eta` of its candidates.
        candidates: The candidates of the space.
        left_out: The number of combinations that are left out, by reason.
        reference: The method that others are compared with, at the same budget.
    """

    pretrained: Pretrained
    model: ViT
    task: Task[Any]
    objective: Objective
    calibration: Calibration
    space: Space
    gmacs: float
    counts: tuple[int, ...]
    eta: int
    candidates: tuple[Candidate, ...]
    left_out: dict[str, int]
    reference: Candidate

    @cached_property
    def weights_checksum(self) -> str:
        """The checksum of the variables."""
        return checkpoint.checksum(self.pretrained.variables)

    def to_config(self) -> dict[str, Any]:
        """Return all settings that the results depend on, as plain values for JSON."""
        config, data = self.pretrained.config, self.pretrained.config.data
        splits = [
            SplitRecord.from_source(data, data.train_split, self.calibration.data.source),
            SplitRecord.from_source(data, data.eval_split, self.calibration.reported),
        ]
        return {
            "model": models.to_config(self.model),
            "weights": [self.pretrained.name, self.weights_checksum],
            "data": {**config.to_mapping()["data"], "batch_size": self.calibration.data.batch_size},
            # The directory may change.
            "splits": [{**asdict(split), "dir": ""} for split in splits],
            "space": self.space.to_config(),
            "gmacs": self.gmacs,
            "task": self.objective.task.settings,
            "objective": self.objective.metric,
            "rungs": list(self.counts),
            "eta": self.eta,
            "versions": versions(),
        }

    @property
    def source(self) -> dict[str, Any]:
        """What the candidates are chosen on, for a preset."""
        data = self.pretrained.config.data
        return {
            "model": self.model.variant,
            "img_size": list(self.model.img_size),
            "weights": self.weights_checksum,
            "task": self.task.NAME,
            "objective": self.objective.metric,
            "data": data.name,
            "split": data.train_split,
            "images": self.counts[-1],
            "gmacs": self.gmacs,
            "macs_fraction": round(1e9 * self.gmacs / self.model.cost().total, 6),
            "candidates": len(self.candidates),
        }


def build(
    pretrained: Pretrained,
    space: Space,
    task: Task[Any],
    *,
    metric: str = "",
    gmacs: float | None = None,
    macs_fraction: float = 0.6,
    images: int = 512,
    min_images: int = 16,
    eta: int = 3,
) -> Settings:
    """Build a search and validate it before anything is compiled.

    Args:
        pretrained: The model, its weights and its data.
        space: The reducers and schedule families.
        task: The task that the features are for.
        metric: As for `objective.choose`.
        gmacs: The budget in units of 1e9 multiply-adds; None for `macs_fraction`.
        macs_fraction: The budget as a fraction of the multiply-adds of the dense model.
        images: The number of calibration images of the last rung.
        min_images: That of the first rung.
        eta: A rung passes on `1 / eta` of its candidates.

    Raises:
        InputError: A number is out of range, the task does not have the metric or does not fit the model, the
            calibration images are not usable, or no candidate meets the budget.
    """
    model = models.condense(pretrained.model)
    if gmacs is None:
        hint = "0.5 is half of the MACs of the dense model"
        check_range("--macs-fraction", macs_fraction, 0, 1, excludes_low=True, excludes_high=True, hint=hint)
        gmacs = macs_fraction * model.cost().total / 1e9
    dense = model.cost().total / 1e9
    if not 0 < gmacs < dense:
        raise out_of_range("--gmacs", gmacs, f"> 0 and < {dense:.4g}", "the dense model sets the upper limit")
    if eta < 2:
        raise out_of_range("--eta", eta, ">= 2", "3 passes on a third of the candidates")
    counts, objective = rungs(min_images, images), choose(task, metric)
    objective.check(counts[0])
    objective.task.check(model)
    calibration = open_calibration(pretrained, objective.task, images, counts[0])
    reference = make_reference(model, space.families, gmacs)
    with announce_slow("resolving the schedules of all candidates, which takes a minute for a thousand"):
        candidates, left_out = space.candidates(model, gmacs)
    return Settings(
        pretrained, model, task, objective, calibration, space, gmacs, counts, eta, candidates, left_out, reference
    )  # fmt: skip


def make_reference(model: ViT, families: Sequence[str], gmacs: float) -> Candidate:
    """Return ToMe, which others are compared with, with the schedule family of its paper or else the first one.

    Args:
        model: The dense model.
        families: The schedule families of the search.
        gmacs: The budget in units of 1e9 multiply-adds.

    Raises:
        InputError: ToMe does not meet the budget.
    """
    reducer = ToMe()
    family = reducer.DEFAULT_SCHEDULE if reducer.DEFAULT_SCHEDULE in families else families[0]
    try:
        return Candidate(reducer, family, models.condense(model, reducer, schedule.budget(gmacs, family)))
    except InputError as error:
        raise invalid(f"reference {reducer!r}, {family}", str(error)) from error
