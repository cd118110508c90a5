"""Classification by the model's own classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
from jax import Array
from jax.sharding import Mesh

from tcvit_jax.evaluation import make_rank_step
from tcvit_jax.models import ViT
from tcvit_jax.tasks.base import Forward, Subject, Task, map_batches
from tcvit_jax.tasks.scores import Scores, count_nonfinite


@dataclass(frozen=True)
class Ranks:
    """Ranks of the labels.

    Attributes:
        values: `[weights, images]` int32, the rank of each label among the logits, as `evaluation.label_rank`.
        is_finite: `[weights, images]` bool, whether all logits of an image are finite.
    """

    values: np.ndarray
    is_finite: np.ndarray


@dataclass(frozen=True)
class Classify(Task[Ranks]):
    """Top-1 and top-5 accuracy of the model's classifier."""

    NAME: ClassVar[str] = "classify"
    METRICS: ClassVar[tuple[str, ...]] = ("top1", "top5")
    NEEDS_CLASSIFIER: ClassVar[bool] = True

    @property
    def compares_with_dense(self) -> bool:
        """Whether the reference of the scores is the outputs of the dense model."""
        return False

    def forward(self, model: ViT) -> Forward:
        """Return the logits of images."""
        return lambda variables, images: cast(Array, model.apply(variables, images))

    def outputs(self, subject: Subject, mesh: Mesh) -> Ranks:
        """Return the rank of each label."""
        step = make_rank_step(subject.model, subject.preprocessing, mesh)
        return Ranks(*map_batches(step, subject, subject.data.batches(), len(subject.data.source), mesh))

    def reference(self, dense: Subject, mesh: Mesh) -> None:
        """Return None, because the labels of the images are the reference."""

    def scores(self, outputs: Ranks, reference: Ranks | None) -> Scores:
        """Return top-1 and top-5 hits."""
        metrics = {"top1": outputs.values < 1, "top5": outputs.values < 5}
        return Scores(metrics, count_nonfinite(outputs.is_finite))
