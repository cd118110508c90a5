"""Training and evaluation data of a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import jax

from tcvit_jax import data as pipeline
from tcvit_jax.assembly.records import DataRecord
from tcvit_jax.config import Data, Run
from tcvit_jax.data import Batch, EvalTransform, LabelMaps, Source, TokenLabeling, TrainTransform
from tcvit_jax.errors import invalid
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing

# Preprocessed images of up to this number of bytes are read once and cached.
_MAX_CACHED_BYTES = 2**30


@dataclass(frozen=True)
class EvalData:
    """The evaluation split and its preprocessing.

    Attributes:
        source: The examples.
        transform: The preprocessing of an image.
        batch_size: The global batch size.
        workers: The number of worker processes for decoding; 0 decodes in the main process.
        is_cached: Whether the batches are read once and stay in memory.
    """

    source: Source
    transform: EvalTransform
    batch_size: int
    workers: int
    is_cached: bool = False

    def batches(self) -> Iterator[Batch]:
        """Return this process's part of the batches, which contain every example exactly once."""
        return iter(self._cached_batches) if self.is_cached else self._read_batches()

    def with_cache(self) -> EvalData:
        """Return the same data, whose batches stay in memory if they are small."""
        size = len(self.source) * math.prod((*self.transform.size, self.transform.channels))
        return replace(self, is_cached=size <= _MAX_CACHED_BYTES)

    def with_batch_size(self, batch_size: int) -> EvalData:
        """Return the same data with a batch size, lowered to the smallest one that holds all images.

        A larger batch would only have more padding. The batch is sharded over all devices.
        """
        devices = jax.device_count()
        return replace(self, batch_size=min(batch_size, -(-len(self.source) // devices) * devices))

    @cached_property
    def _cached_batches(self) -> list[Batch]:
        return list(self._read_batches())

    def _read_batches(self) -> Iterator[Batch]:
        return pipeline.eval_batches(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.workers,
        )


def describe_reading(data: Data, eval_data: EvalData) -> list[str]:
    """Return the lines that describe how a split is read: the workers, and the files that are not read.

    Args:
        data: The section, for the requested number of workers.
        eval_data: The data that were built from it.

    Returns:
        At most two lines.
    """
    workers = pipeline.describe_workers(data.workers, eval_data.workers) if eval_data.workers else ""
    lines = (workers, pipeline.describe_skipped(eval_data.source.skipped))
    return [f"data    {line}" for line in lines if line]


def build_eval_data(
    data: Data,
    batch_size: int,
    model: ViT,
    preprocessing: Preprocessing,
    record: DataRecord | None = None,
    *,
    split: str = "",
    needs_classifier: bool = True,
) -> EvalData:
    """Return the evaluation split of a configuration, or another split with the same preprocessing.

    Args:
        data: The section.
        batch_size: The global batch size, a multiple of the number of devices. It is lowered to the smallest one that
            holds the whole split.
        model: The model, for the size and the channels of its images.
        preprocessing: The preprocessing of its images.
        record: The data of the model's checkpoint, which are compared; None to compare nothing.
        split: The split; empty for the evaluation split.
        needs_classifier: As for `open_split`.

    Returns:
        The evaluation data.

    Raises:
        InputError: The data are not found, or differ from the record.
    """
    transform = EvalTransform(model.img_size, model.in_chans, *preprocessing.geometry)
    source = open_split(data, split or data.eval_split, model, record, needs_classifier)
    workers = pipeline.resolve_workers(data.workers, source)
    return EvalData(source, transform, batch_size, workers).with_batch_size(batch_size)


@dataclass(frozen=True)
class TrainData:
    """The training split and its augmentation.

    Attributes:
        source: The examples.
        transform: The augmentation of an image.
        batch_size: The global batch size.
        seed: The seed of the order and the augmentation.
        repeats: The number of rows that each image fills.
        workers: The number of worker processes for decoding; 0 decodes in the main process.
        labeling: The token labels of LV-ViT, or None.
    """

    source: Source
    transform: TrainTransform
    batch_size: int
    seed: int
    repeats: int
    workers: int
    labeling: TokenLabeling | None = None

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Return this process's part of the batches, starting at step `start_step`."""
        return pipeline.train_batches(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            seed=self.seed,
            repeats=self.repeats,
            labeling=self.labeling,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.workers,
        )

    def steps(self, epochs: float) -> int:
        """Return the number of steps in `epochs` passes over the examples, rounded."""
        return round(epochs * len(self.source) / self.batch_size)


def build_train_data(data: Data, run: Run, model: ViT, preprocessing: Preprocessing) -> TrainData:
    """Return the training split of a configuration.

    Args:
        data: The section of the data.
        run: The section with the batch size and the seed.
        model: The model.
        preprocessing: The preprocessing of its images.

    Returns:
        The training data.

    Raises:
        InputError: The data are not found, their number of classes differs from the model's, or the augmentation is
            invalid.
    """
    transform = TrainTransform(
        model.img_size, model.in_chans, data.train_interpolation or preprocessing.interpolation, data.augmentation,
        data.shift, auto_augment=data.auto_augment, color_jitter=data.color_jitter, mean=tuple(preprocessing.mean),
    )  # fmt: skip
    source = open_split(data, data.train_split, model)
    labeling = None
    if data.label_maps:
        labeling = TokenLabeling(LabelMaps(data.label_maps, model.num_classes), model.grid)
    workers = pipeline.resolve_workers(data.workers, source)
    return TrainData(source, transform, run.batch_size, run.seed, data.repeats, workers, labeling)


def open_split(
    data: Data, split: str, model: ViT, record: DataRecord | None = None, needs_classifier: bool = True
) -> Source:
    """Open a split of the dataset of a configuration.

    Args:
        data: The section.
        split: The split.
        model: The model, for the number of its classes.
        record: The data of the model's checkpoint, which are compared; None to compare nothing.
        needs_classifier: Whether the model classifies the images, so that it must have their classes.

    Returns:
        The images of the split.

    Raises:
        InputError: The data are not found, their number of classes differs from the model's, or they differ from the
            record.
    """
    source = pipeline.open_source(data.name, split, data.dir, data.verify)
    if needs_classifier and len(source.classes) != model.num_classes:
        count = len(source.classes)
        if not model.num_classes:
            problem = f"{count} classes, but the model has no classifier"
            raise invalid(f"data.name={data.name!r}", problem, "pass --task knn, for example, to measure features")
        problem = f"expected {model.num_classes} classes, as model.num_classes, got {count}"
        raise invalid(f"data.name={data.name!r}", problem, f"use other data, or a model of {count} classes")
    if record is not None:
        # Features may be measured on other classes than those of the training.
        (record if needs_classifier else replace(record, classes=None)).check(data, split, source)
    return source
