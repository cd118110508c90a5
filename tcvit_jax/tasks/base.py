"""The interface of tasks, and the pass of a model over all images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from tcvit_jax import sharding
from tcvit_jax.assembly import EvalData
from tcvit_jax.data import Batch, Source
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.report.progress import ImageProgress, announce_first_call
from tcvit_jax.tasks.scores import Scores

# A function of `(variables, images)`, with images `[B, H, W, C]` float, normalized.
Forward = Callable[[Any, Array], Array]
OutputsT = TypeVar("OutputsT")


@dataclass(frozen=True)
class Subject:
    """A model, and the images that it is measured on.

    Attributes:
        model: The model.
        variables: One or more sets of variables of the model.
        preprocessing: The normalization of the images.
        data: The evaluation images, at the size of the model.
        train_data: The training images, at the size of the model; None if the task reads none.
        grid: The patch grid of the full-size model, which maps are decoded from.
    """

    model: ViT
    variables: Sequence[Mapping[str, Any]]
    preprocessing: Preprocessing
    data: EvalData
    train_data: EvalData | None
    grid: tuple[int, int]


@dataclass(frozen=True)
class Task(ABC, Generic[OutputsT]):
    """A task. Subclasses are small dataclasses, whose fields are flags of the command lines.

    Attributes:
        NAME: The name, as in `--task NAME`.
        METRICS: The names of the metrics. The first one is compared.
        NEEDS_CLASSIFIER: Whether the model must classify the images.
        compares_with_dense: Whether the reference of the scores is the outputs of the dense model.
        uses_train_data: Whether the task reads training images.
    """

    NAME: ClassVar[str]
    METRICS: ClassVar[tuple[str, ...]]
    NEEDS_CLASSIFIER: ClassVar[bool] = False

    @property
    def compares_with_dense(self) -> bool:
        """Whether the reference of the scores is the outputs of the dense model."""
        return True

    @property
    def uses_train_data(self) -> bool:
        """Whether the task reads training images."""
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the scores depend on, as plain values for JSON."""
        return {"name": self.NAME, **vars(self)}

    def select(self, source: Source) -> Source:
        """Return the images to measure on, usually all of a split.

        Raises:
            InputError: The task cannot use the source.
        """
        return source

    def check(self, model: ViT) -> None:
        """Check that the task can measure a model, before anything is compiled.

        Raises:
            InputError: It cannot.
        """

    @abstractmethod
    def forward(self, model: ViT) -> Forward:
        """Return what the task computes of images, which benchmarks time."""

    def computed_macs(self, model: ViT) -> int:
        """Return the multiply-adds of `forward` for one image."""
        return model.cost().computed_macs

    @abstractmethod
    def outputs(self, subject: Subject, mesh: Mesh) -> OutputsT:
        """Return the outputs of a model for all images."""

    def reference(self, dense: Subject, mesh: Mesh) -> OutputsT | None:
        """Return what outputs are compared with: those of the full-size dense model, or labels in the same form.

        Args:
            dense: The dense model, at its full size.
            mesh: The mesh over which batches are sharded.

        Returns:
            The reference; None if the labels of the images are enough.
        """
        return self.outputs(dense, mesh)

    @abstractmethod
    def scores(self, outputs: OutputsT, reference: OutputsT | None) -> Scores:
        """Return the scores of outputs.

        Args:
            outputs: The outputs of the model.
            reference: The result of `reference`.
        """


def map_batches(
    step: Callable[[Any, Any], Any],
    subject: Subject,
    batches: Iterable[Batch],
    images: int,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the results of a compiled function for all images with each set of variables, in one pass over the images.

    Args:
        step: A function of `(variables, batch)` with two replicated results, `[B, ...]`: values, and whether they are
            finite.
        subject: The model with its variables.
        batches: Masked batches.
        images: The number of images, for progress.
        mesh: The mesh over which batches are sharded.

    Returns:
        Both results without padding, `[weights, images, ...]`.
    """
    announcing_step = announce_first_call(step, f"compiling the evaluation of {subject.model.variant}")
    device_variables = [sharding.place_replicated(variables, mesh) for variables in subject.variables]
    rows: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in device_variables]
    with ImageProgress("evaluation", images) as progress:
        for index, batch in enumerate(batches):
            device_batch = sharding.place(batch, mesh)
            is_valid = batch["mask"] > 0
            for row, variables in zip(rows, device_variables, strict=True):
                values, is_finite = jax.device_get(announcing_step(variables, device_batch))
                row.append((values[is_valid], is_finite[is_valid]))
            progress.update((index + 1) * len(is_valid))
    values, is_finite = (np.stack([np.concatenate([b[part] for b in row]) for row in rows]) for part in (0, 1))
    return values, is_finite


def compile_step(function: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Compile a function of `(variables, batch)` with replicated variables and results, and a sharded batch."""
    replicated = sharding.replicated(mesh)
    return jax.jit(function, in_shardings=(replicated, sharding.batch_sharding(mesh)), out_shardings=replicated)
