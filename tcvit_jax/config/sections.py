"""The sections of a configuration: frozen dataclasses, each of which checks its own fields when it is made.

A field's key is what configuration files and `--config.KEY=VALUE` call it: the section's prefix and the field's name.
`Model` and `Reduction`, whose keys are more than their fields, are in `model.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tcvit_jax.config.fields import (
    AT_LEAST_ONE,
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    Condition,
    Section,
    key,
)
from tcvit_jax.errors import InputError
from tcvit_jax.models.zoo import Preprocessing

_PREPROCESSING = Preprocessing()


@dataclass(frozen=True)
class ReductionWarmup(Section):
    """From no reduction to all of it, over the first epochs of a run.

    Attributes:
        start_epoch: until then nothing is removed.
        epochs: how long it takes; 0 is off.
        stages: how many different schedules, each of which is compiled.
    """

    PREFIX: ClassVar[str] = "reduction_warmup."

    start_epoch: float = key(0.0)
    epochs: float = key(0.0)
    stages: int = key(8)

    def check(self) -> None:
        """Check ranges."""
        self.require(NOT_NEGATIVE, "start_epoch", "epochs")
        self.require(AT_LEAST_ONE, "stages")


@dataclass(frozen=True)
class Data(Section):
    """The images, and how they are prepared.

    Attributes:
        name: `"digits"`, `"folder"`, `"tfrecord"`, or a data set of TFDS.
        dir: of the folder, of the TFRecord files, or of TFDS's prepared data sets.
        train_split, eval_split: the splits that are trained on and evaluated.
        augmentation: `"crop"` or `"shift"`.
        shift: the most pixels that `"shift"` moves by.
        auto_augment: timm's name of a RandAugment, such as `"rand-m9-mstd0.5-inc1"`; empty for none.
        color_jitter: the most that brightness, contrast and saturation change by.
        train_interpolation: `"random"`, or another one than in evaluation; empty for the same.
        repeats: rows that each image fills, with an augmentation for each.
        label_maps: LV-ViT's token labels, a folder with CLASS/NAME.npy for every training image.
        workers: decoding processes; 0 decodes in this one.
        mean, std, crop_pct, interpolation, crop_mode: as in `Preprocessing`; None for those of the model's weights.
    """

    PREFIX: ClassVar[str] = "data."

    name: str = key("imagenet2012")
    dir: str = key("")
    train_split: str = key("train")
    eval_split: str = key("val")
    augmentation: str = key("crop")
    shift: int = key(1)
    auto_augment: str = key("")
    color_jitter: float = key(0.0)
    train_interpolation: str = key("")
    repeats: int = key(1)
    label_maps: str = key("")
    workers: int = key(0)
    mean: tuple[float, ...] | None = key(None, example=_PREPROCESSING.mean)
    std: tuple[float, ...] | None = key(None, example=_PREPROCESSING.std)
    crop_pct: float | None = key(None, example=_PREPROCESSING.crop_pct)
    interpolation: str | None = key(None, example=_PREPROCESSING.interpolation)
    crop_mode: str | None = key(None, example=_PREPROCESSING.crop_mode)

    def check(self) -> None:
        """Check ranges; what a data set or a transform takes is for them to say."""
        self.require(AT_LEAST_ONE, "repeats")
        self.require(NOT_NEGATIVE, "shift", "color_jitter", "workers")


@dataclass(frozen=True)
class Mixing(Section):
    """What is done to images and labels on the device.

    Attributes:
        mixup: alpha of the Beta distribution of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off.
        prob: the probability that a batch is mixed.
        switch_prob: the probability that it is by CutMix, where both are on.
        mix_token: whether patches are mixed instead of pixels (LV-ViT).
        random_erasing: the probability that an image loses a box.
        label_smoothing: the share of the uniform distribution in every label.
        token_labels: the weight of the loss of every patch token, for a model with a head on them; 0 is off.
    """

    PREFIX: ClassVar[str] = "mixing."

    mixup: float = key(0.0)
    cutmix: float = key(0.0)
    prob: float = key(1.0)
    switch_prob: float = key(0.5)
    mix_token: bool = key(False)
    random_erasing: float = key(0.0, "random_erasing")
    label_smoothing: float = key(0.1, "label_smoothing")
    token_labels: float = key(0.0, "token_labels")

    def check(self) -> None:
        """Check ranges."""
        self.require(NOT_NEGATIVE, "mixup", "cutmix", "token_labels")
        self.require(PROBABILITY, "prob", "switch_prob", "random_erasing")
        self.require(BELOW_ONE, "label_smoothing")


@dataclass(frozen=True)
class Distillation(Section):
    """The teacher, and how the model learns from it.

    Attributes:
        teacher: a checkpoint, or `"dense"`: this model without reduction, with `weights`; empty is none.
        kind: `"soft"` or `"hard"`.
        weight: the teacher's share of the loss; labels have the rest.
        temperature: of `"soft"`.
        tokens: the weight of the difference of restored patches from the teacher's.
    """

    PREFIX: ClassVar[str] = "distill."

    teacher: str = key("")
    kind: str = key("soft")
    weight: float = key(0.5)
    temperature: float = key(1.0)
    tokens: float = key(0.0)

    def check(self) -> None:
        """Check ranges."""
        self.require_one_of("kind", ("soft", "hard"))
        self.require(PROBABILITY, "weight")
        self.require(POSITIVE, "temperature")
        self.require(NOT_NEGATIVE, "tokens")


@dataclass(frozen=True)
class Optimizer(Section):
    """AdamW and its learning rate.

    Attributes:
        lr: the peak of the learning rate.
        lr_batch_size: images a step that `lr` is meant for, and scaled from; 0 takes `lr` as it is.
        min_lr: the learning rate at the last step.
        warmup_lr: the learning rate at the first step.
        warmup_epochs: how long the warm-up takes.
        warmup_prefix: whether the cosine begins after the warm-up; otherwise it begins at the first step.
        weight_decay: decoupled, scaled by the learning rate.
        b1, b2: decay rates of the moments.
        clip_norm: the greatest global norm of a gradient; 0 is off.
        layer_decay: factor of the learning rate for each layer below the head; 1 is off.
        ema_decay: of the averaged parameters.
    """

    PREFIX: ClassVar[str] = "optimizer."

    lr: float = key(1e-3)
    lr_batch_size: int = key(0)
    min_lr: float = key(1e-5)
    warmup_lr: float = key(0.0)
    warmup_epochs: float = key(5.0)
    warmup_prefix: bool = key(True)
    weight_decay: float = key(0.05)
    b1: float = key(0.9)
    b2: float = key(0.999)
    clip_norm: float = key(0.0)
    layer_decay: float = key(1.0)
    ema_decay: float = key(0.9999)

    def check(self) -> None:
        """Check ranges."""
        self.require(POSITIVE, "lr")
        self.require(BELOW_ONE, "b1", "b2", "ema_decay")
        self.require(NOT_NEGATIVE, "lr_batch_size", "min_lr", "warmup_lr", "warmup_epochs", "weight_decay", "clip_norm")
        self.require(Condition("in (0, 1]", lambda value: 0 < value <= 1), "layer_decay")


@dataclass(frozen=True)
class Mesh(Section):
    """The devices.

    Attributes:
        data: devices that the batch alone is split over; 0 for all that are left.
        model: devices that share the parameters (FSDP); with 1 each device has them all.
    """

    PREFIX: ClassVar[str] = "mesh."

    data: int = key(0)
    model: int = key(1)

    def check(self) -> None:
        """Check ranges; how many devices there are is for `sharding.make_mesh` to say."""
        self.require(NOT_NEGATIVE, "data")
        self.require(AT_LEAST_ONE, "model")


@dataclass(frozen=True)
class Run(Section):
    """How long a run takes, and what it keeps.

    Attributes:
        workdir: where the run is kept; empty is `runs/` and the name of the configuration file.
        seed: of every random choice.
        batch_size, eval_batch_size: images, over all devices.
        epochs: passes over the training images.
        accumulate: micro-batches of a device that make one step.
        log_every: steps.
        eval_every: epochs.
        checkpoint_every: steps.
    """

    workdir: str = key("")
    seed: int = key(0)
    batch_size: int = key(1024)
    eval_batch_size: int = key(1024)
    epochs: float = key(300.0)
    accumulate: int = key(1)
    log_every: int = key(50)
    eval_every: float = key(1.0)
    checkpoint_every: int = key(1000)

    def check(self) -> None:
        """Check ranges; which batch sizes the devices can share is for `sharding.check_divisible` to say."""
        self.require(
            POSITIVE, "epochs", "accumulate", "batch_size", "eval_batch_size", "log_every", "eval_every",
            "checkpoint_every",
        )  # fmt: skip
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed}: must be in [0, 2**32)")
