"""The splits that are trained on and evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax

from tcvit_jax import data as pipeline
from tcvit_jax.config import Data, Run
from tcvit_jax.data import Batch, EvalTransform, LabelMaps, Source, TokenLabeling, TrainTransform
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing


@dataclass(frozen=True)
class EvalData:
    """The split that is evaluated, as the model takes it."""

    source: Source
    transform: EvalTransform
    batch_size: int
    workers: int

    def batches(self) -> Iterator[Batch]:
        """Return this process's part of the batches, which hold every example once."""
        return pipeline.eval_batches(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.workers,
        )


def build_eval_data(
    data: Data,
    batch_size: int,
    model: ViT,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None = None,
    trained: str = "the checkpoint",
) -> EvalData:
    """Return the evaluation split of a configuration.

    Args:
        data: the section.
        batch_size: images, over all devices.
        model, preprocessing: what the images are prepared for.
        classes: those that `trained`, for errors, was trained on; None where they are not known.
        trained: see `classes`.

    Raises:
        InputError: no such data, or other classes than the model's.
    """
    transform = EvalTransform(
        model.img_size, model.in_chans, preprocessing.crop_pct, preprocessing.interpolation, preprocessing.crop_mode
    )
    source = _open(data, data.eval_split, model)
    if classes is not None and source.classes != classes:
        raise InputError(f"dataset {data.name!r} has other classes than {trained} was trained on")
    return EvalData(source, transform, batch_size, data.workers)


@dataclass(frozen=True)
class TrainData:
    """The split that is trained on."""

    source: Source
    transform: TrainTransform
    batch_size: int
    seed: int
    repeats: int
    workers: int
    labeling: TokenLabeling | None = None

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Return this process's part of the batches from `start_step` on."""
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
        """Return how many steps see as many examples as `epochs` passes, rounded."""
        return round(epochs * len(self.source) / self.batch_size)


def build_train_data(data: Data, run: Run, model: ViT, preprocessing: Preprocessing) -> TrainData:
    """Return the training split of a configuration.

    Raises:
        InputError: no such data, other classes than the model's, or an augmentation that cannot be made.
    """
    transform = TrainTransform(
        model.img_size, model.in_chans, data.train_interpolation or preprocessing.interpolation, data.augmentation,
        data.shift, auto_augment=data.auto_augment, color_jitter=data.color_jitter, mean=tuple(preprocessing.mean),
    )  # fmt: skip
    source = _open(data, data.train_split, model)
    labeling = None
    if data.label_maps:
        labeling = TokenLabeling(LabelMaps(data.label_maps, model.num_classes), model.grid)
    return TrainData(source, transform, run.batch_size, run.seed, data.repeats, data.workers, labeling)


def _open(data: Data, split: str, model: ViT) -> Source:
    source = pipeline.open_source(data.name, split, data.dir)
    if len(source.classes) != model.num_classes:
        raise InputError(
            f"dataset {data.name!r} has {len(source.classes)} classes and the model num_classes="
            f"{model.num_classes}: use --config.model.num_classes={len(source.classes)}, or other data"
        )
    return source
