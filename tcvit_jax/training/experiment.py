"""From a configuration to the things it names: the model, its preprocessing, the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import jax

from tcvit_jax import data, models, reducers, schedule
from tcvit_jax.config import Config
from tcvit_jax.data import Batch, EvalTransform, LabelMaps, Source, TokenLabelling, TrainTransform
from tcvit_jax.errors import InputError
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import OVERRIDES, Preprocessing


def _given(section: Config, keys: Iterable[str]) -> dict[str, Any]:
    """What a section says otherwise than None; lists, as JSON has them, are tuples."""
    values = {key: section[key] for key in keys if section[key] is not None}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def build_model(config: Config) -> ViT:
    """The model that a configuration describes."""
    overrides = _given(config.model, OVERRIDES)
    return condensed(config, models.create_model(config.model.name, **overrides))


def condensed(config: Config, model: ViT) -> ViT:
    """`model` with the reducer and the schedule of a configuration."""
    plan = schedule.budget(config.gmacs, config.shape) if config.gmacs else config.schedule
    return models.condense(model, reducers.from_config(config.reducer), plan)


def build_preprocessing(config: Config, model: ViT, base: Preprocessing | None = None) -> Preprocessing:
    """`base`, by default the preprocessing of the model's name, with what the configuration says otherwise.

    Raises:
        InputError: `mean` or `std` for another number of channels than the model's.
    """
    given = _given(config.data, [field.name for field in fields(Preprocessing)])
    found = replace(base or models.preprocessing(model.variant), **given)
    for key in ("mean", "std"):
        if len(getattr(found, key)) != model.in_chans:
            raise InputError(f"data.{key}={getattr(found, key)} is not one value for each of {model.in_chans} channels")
    return found


@dataclass(frozen=True)
class EvalData:
    """The split that is evaluated, as the model wants to see it."""

    source: Source
    transform: EvalTransform
    batch_size: int
    workers: int

    def batches(self) -> Iterator[Batch]:
        """Every example once; this process's part."""
        return data.eval_batches(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.workers,
        )


def build_eval_data(config: Config, model: ViT, preprocessing: Preprocessing) -> EvalData:
    """The evaluation split of a configuration."""
    crop = preprocessing
    transform = EvalTransform(model.img_size, model.in_chans, crop.crop_pct, crop.interpolation, crop.crop_mode)
    source = _open(config, config.data.eval_split, model)
    return EvalData(source, transform, config.eval_batch_size, config.data.workers)


@dataclass(frozen=True)
class TrainData:
    """The split that is trained on."""

    source: Source
    transform: TrainTransform
    batch_size: int
    seed: int
    repeats: int
    workers: int
    labelling: TokenLabelling | None = None

    def batches(self, start_step: int) -> Iterator[Batch]:
        """This process's part of the batches from `start_step` on."""
        return data.train_batches(
            self.source,
            self.transform,
            batch_size=self.batch_size,
            seed=self.seed,
            repeats=self.repeats,
            labelling=self.labelling,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self.workers,
        )

    def steps(self, epochs: float) -> int:
        """Steps that see as many examples as `epochs` passes, rounded."""
        return round(epochs * len(self.source) / self.batch_size)


def build_train_data(config: Config, model: ViT, preprocessing: Preprocessing) -> TrainData:
    """The training split of a configuration."""
    data = config.data
    transform = TrainTransform(
        model.img_size, model.in_chans, data.train_interpolation or preprocessing.interpolation, data.augmentation,
        data.shift, auto_augment=data.auto_augment, color_jitter=data.color_jitter, mean=tuple(preprocessing.mean),
    )  # fmt: skip
    source = _open(config, data.train_split, model)
    labelling = None
    if data.label_maps:
        labelling = TokenLabelling(LabelMaps(data.label_maps, model.num_classes), model.grid)
    return TrainData(source, transform, config.batch_size, config.seed, data.repeats, data.workers, labelling)


def _open(config: Config, split: str, model: ViT) -> Source:
    source = data.open_source(config.data.name, split, config.data.dir)
    if len(source.classes) != model.num_classes:
        raise InputError(
            f"dataset {config.data.name!r} has {len(source.classes)} classes and the model num_classes="
            f"{model.num_classes}: use --config.model.num_classes={len(source.classes)}, or other data"
        )
    return source


def check_classes(config: Config, data: EvalData, classes: tuple[str, ...] | None, trained: str) -> None:
    """Raise `InputError` unless the data's classes are those that `trained` was trained on; None for not known."""
    if classes is not None and data.source.classes != classes:
        raise InputError(f"dataset {config.data.name!r} has other classes than {trained} was trained on")
