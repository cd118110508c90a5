"""The sections of a configuration: frozen dataclasses that check their fields.

The key of a field, in configuration files and in `--config.KEY=VALUE`, is the section's prefix followed by the field's
name. `Model` and `Reduction`, which have keys that are not fields, are in `model.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
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
from tcvit_jax.errors import out_of_range
from tcvit_jax.models.image_preprocessing import Preprocessing, check_preprocessing

_PREPROCESSING = Preprocessing()


@dataclass(frozen=True)
class ReductionWarmup(Section):
    """Warm-up of the reduction: the removals grow from none to the full schedule during the first epochs.

    Attributes:
        start_epoch: The epoch at which the warm-up starts; no tokens are removed before it.
        epochs: The length of the warm-up; 0 disables it.
        stages: The number of schedules of the warm-up, each of which is compiled.
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
    """The dataset, its augmentation and its preprocessing.

    Attributes:
        name: `"digits"`, `"folder"`, `"pairs"`, `"tfrecord"`, or the name of a TFDS dataset.
        dir: The image folder, the directory of the TFRecord files, or the TFDS data directory.
        train_split: The training split.
        eval_split: The evaluation split.
        augmentation: `"crop"` (random resized crop) or `"shift"` (random translation).
        shift: The maximum translation of `"shift"`, in pixels.
        auto_augment: A RandAugment in timm's notation, such as `"rand-m9-mstd0.5-inc1"`; empty for none.
        color_jitter: The strength of torchvision's ColorJitter for brightness, contrast and saturation; 0 for none.
        train_interpolation: The interpolation for training, or `"random"`; empty for that of evaluation.
        repeats: The number of rows that each image fills, each augmented differently (repeated augmentation).
        label_maps: The directory of LV-ViT's token labels, with `CLASS/NAME.npy` for every training image.
        workers: The number of worker processes for decoding, at most 4 per core; 0 decodes in the main process. None is
            the number of cores, at most 16, or 0 for images in memory.
        verify: Whether to verify the checksums of each record of a TFRecord file that is read.
        mean: As in `Preprocessing`; None for the value of the model's weights.
        std: As `mean`.
        crop_pct: As `mean`.
        interpolation: As `mean`.
        crop_mode: As `mean`.
        resize: As `mean`; `crop_pct` without `resize` replaces that of the weights.
        crop_rounding: As `mean`.
    """

    PREFIX: ClassVar[str] = "data."

    name: str = key("imagenet2012")
    dir: str = key("", is_path=True)
    train_split: str = key("train")
    eval_split: str = key("val")
    augmentation: str = key("crop")
    shift: int = key(1)
    auto_augment: str = key("")
    color_jitter: float = key(0.0)
    train_interpolation: str = key("")
    repeats: int = key(1)
    label_maps: str = key("", is_path=True)
    workers: int | None = key(None, example=4)
    verify: bool = key(True)
    mean: tuple[float, ...] | None = key(None, example=_PREPROCESSING.mean)
    std: tuple[float, ...] | None = key(None, example=_PREPROCESSING.std)
    crop_pct: float | None = key(None, example=_PREPROCESSING.crop_pct)
    interpolation: str | None = key(None, example=_PREPROCESSING.interpolation)
    crop_mode: str | None = key(None, example=_PREPROCESSING.crop_mode)
    resize: int | None = key(None, example=256)
    crop_rounding: str | None = key(None, example=_PREPROCESSING.crop_rounding)

    def check(self) -> None:
        """Check ranges; the dataset and the transforms check the other values."""
        self.require(AT_LEAST_ONE, "repeats")
        self.require(NOT_NEGATIVE, "shift", "color_jitter")
        if self.workers is not None:
            self.require(NOT_NEGATIVE, "workers")
        preprocessing = {each.name: getattr(self, each.name) for each in fields(Preprocessing)}
        check_preprocessing({key: value for key, value in preprocessing.items() if value is not None}, self.PREFIX)


@dataclass(frozen=True)
class Mixing(Section):
    """Mixup, CutMix, random erasing and the labels, all applied on the device.

    Attributes:
        mixup: The alpha of mixup's Beta distribution; 0 disables mixup.
        cutmix: The alpha of CutMix's Beta distribution; 0 disables CutMix.
        prob: The probability that a batch is mixed.
        switch_prob: The probability of CutMix instead of mixup, if both are enabled.
        mix_token: Whether to mix patch tokens instead of pixels (MixToken of LV-ViT).
        random_erasing: The probability that a box of an image is erased.
        label_smoothing: The label smoothing factor.
        token_labels: The weight of the token-labeling loss, for models with a head on patch tokens; 0 disables it.
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
    """Knowledge distillation.

    Attributes:
        teacher: A checkpoint, or `"dense"` for the same model with `weights` and without reduction; empty for none.
        kind: `"soft"` or `"hard"` distillation.
        weight: The weight of the distillation loss; the label loss has the weight `1 - weight`.
        temperature: The temperature of `"soft"` distillation.
        tokens: The weight of the loss between restored patch tokens and the teacher's patch tokens.
    """

    PREFIX: ClassVar[str] = "distill."

    teacher: str = key("", is_path=True)
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
    """AdamW with a cosine learning rate schedule.

    Attributes:
        lr: The peak learning rate.
        lr_batch_size: The batch size of `lr`, which is scaled linearly to the actual batch size; 0 disables scaling.
        min_lr: The learning rate at the last step.
        warmup_lr: The learning rate at the first step.
        warmup_epochs: The length of the linear warm-up, in epochs.
        warmup_prefix: Whether the cosine starts after the warm-up instead of at the first step.
        weight_decay: The decoupled weight decay, scaled by the learning rate.
        b1: The decay rate of the first moment.
        b2: The decay rate of the second moment.
        clip_norm: The maximum global norm of the gradient; 0 disables clipping.
        layer_decay: The factor of the learning rate per layer below the head; 1 disables layer-wise decay.
        ema_decay: The decay rate of the exponential moving average of the parameters.
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
    """The device mesh.

    Attributes:
        data: The size of the mesh axis `data`, over which only the batch is sharded; 0 for all remaining devices.
        model: The size of the mesh axis `model`, over which parameters are sharded too (FSDP); 1 replicates them.
    """

    PREFIX: ClassVar[str] = "mesh."

    data: int = key(0)
    model: int = key(1)

    def check(self) -> None:
        """Check ranges; `sharding.make_mesh` checks the number of devices."""
        self.require(NOT_NEGATIVE, "data")
        self.require(AT_LEAST_ONE, "model")


@dataclass(frozen=True)
class Run(Section):
    """Batch sizes, length, logging and checkpoints of a run.

    Attributes:
        workdir: The run directory; empty for `runs/` and the name of the configuration file.
        seed: The random seed.
        batch_size: The global batch size of training.
        eval_batch_size: The global batch size of evaluation.
        epochs: The number of passes over the training images.
        accumulate: The number of micro-batches per step (gradient accumulation).
        log_every: The interval between log lines, in steps.
        eval_every: The interval between evaluations, in epochs.
        checkpoint_every: The interval between checkpoints, in steps.
    """

    workdir: str = key("", is_path=True)
    seed: int = key(0)
    batch_size: int = key(1024)
    eval_batch_size: int = key(1024)
    epochs: float = key(300.0)
    accumulate: int = key(1)
    log_every: int = key(50)
    eval_every: float = key(1.0)
    checkpoint_every: int = key(1000)

    def check(self) -> None:
        """Check ranges; `sharding.check_divisible` checks batch sizes against the devices."""
        self.require(
            POSITIVE, "epochs", "accumulate", "batch_size", "eval_batch_size", "log_every", "eval_every",
            "checkpoint_every",
        )  # fmt: skip
        if not 0 <= self.seed < 2**32:
            raise out_of_range("seed", self.seed, "in [0, 2**32)")
