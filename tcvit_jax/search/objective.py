"""What a search maximizes: agreement with the dense model, or a metric of a task."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from tcvit_jax.errors import conflicts, out_of_range, unknown
from tcvit_jax.tasks.base import Task
from tcvit_jax.tasks.classify import Classify
from tcvit_jax.tasks.dense import Dense
from tcvit_jax.tasks.features import FeatureOutputs, FeatureTask
from tcvit_jax.tasks.knn import Knn
from tcvit_jax.tasks.scores import Scores

COSINE = "cosine"
_DECODER_FIELDS = ("decoder", "decoder_weights")


@dataclass(frozen=True)
class Agreement(FeatureTask):
    """Cosine between the feature of each image and that of the dense model, which needs no labels."""

    NAME: ClassVar[str] = "agreement"
    METRICS: ClassVar[tuple[str, ...]] = (COSINE,)

    def scores(self, outputs: FeatureOutputs, reference: FeatureOutputs | None) -> Scores:
        """Return the cosines; 0 for an image whose features are not finite."""
        assert reference is not None
        return Scores({COSINE: outputs.images.cosine(reference.images)}, outputs.images.nonfinite)


@dataclass(frozen=True)
class Objective:
    """A metric of a task; higher is better.

    Attributes:
        task: The task that is measured on the calibration images.
        metric: One of its metrics.
    """

    task: Task[Any]
    metric: str

    def scores(self, outputs: Any, reference: Any) -> Scores:
        """Return the values of the metric alone."""
        scores = self.task.scores(outputs, reference)
        return Scores({self.metric: scores.metrics[self.metric]}, scores.nonfinite)

    def check(self, images: int) -> None:
        """Check that the metric can be measured on a number of images, all that a rung has.

        Raises:
            InputError: There are too few.
        """
        if isinstance(self.task, Knn) and self.task.k >= images:
            raise out_of_range("--min-images", images, f"> {self.task.k}, the number of neighbors --k")


def choose(task: Task[Any], metric: str) -> Objective:
    """Return the objective of a task.

    Args:
        task: The task of the command line.
        metric: `"cosine"`, another metric of the task, or an empty string for the default: the IoU of a dense task, or
            else the cosine.

    Raises:
        InputError: The task does not have the metric on calibration images alone, or has a field that the metric does
            not read.
    """
    if isinstance(task, Dense) and task.label_maps:
        raise conflicts("--label-maps", "tcvit_jax.search", "it compares with the map of the dense model")
    # Of a linear probe and of pairs, only the features are measured; neighbors are those among the same images.
    metrics: tuple[str, ...] = (COSINE,)
    if isinstance(task, Classify | Knn):
        metrics = (COSINE, "top1", "top5")
    elif isinstance(task, Dense):
        metrics = ("iou",)
    metric = metric or metrics[0]
    if metric not in metrics:
        if metric in task.METRICS:
            raise conflicts(f"--objective {metric}", f"--task {task.NAME}", f"set --objective {metrics[0]}")
        raise unknown("objective", metric, metrics)
    read = ("feature",) if metric == COSINE else ("feature", "k", "temperature", "leave_one_out", *_DECODER_FIELDS)
    for field in fields(task):
        if field.name not in read and getattr(task, field.name) != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            raise conflicts(flag, f"--objective {metric}", "it does not change what the search measures")
    if metric == COSINE:
        return Objective(Agreement(task.feature if isinstance(task, FeatureTask) else "pooled"), COSINE)
    return Objective(replace(task, leave_one_out=True) if isinstance(task, Knn) else task, metric)
