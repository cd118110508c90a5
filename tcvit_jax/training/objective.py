"""The training objective: from uint8 images to one loss per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.models.parts import HeadOutputs
from tcvit_jax.ops import plans
from tcvit_jax.ops.images import normalize
from tcvit_jax.ops.rows import Rows
from tcvit_jax.tokens import Tokens
from tcvit_jax.training import losses
from tcvit_jax.training.mixing import (
    Mixing,
    box_mask,
    cutmix_box,
    draw_center,
    image_size,
    mix_images,
    mix_targets,
    random_erasing,
)


@dataclass(frozen=True)
class Teacher:
    """The teacher of knowledge distillation. Its variables are passed to each step.

    Attributes:
        model: The teacher model.
        preprocessing: The preprocessing of its images.
        kind: `"soft"` to learn its distribution, or `"hard"` to learn its most likely class.
        weight: The weight of the distillation loss; the loss on labels has the rest.
        temperature: The temperature of `"soft"`.
        tokens: The weight of the loss between restored patches and the teacher's; 0 disables it.
    """

    model: ViT
    preprocessing: Preprocessing
    kind: str = "soft"
    weight: float = 0.5
    temperature: float = 1.0
    tokens: float = 0.0

    def loss(
        self, student_logits: Float[Array, "B classes"], teacher_logits: Float[Array, "B classes"]
    ) -> Float[Array, " B"]:
        """Return the distillation loss of the logits, `[B]`.

        Args:
            student_logits: `[B, classes]`.
            teacher_logits: `[B, classes]`.
        """
        if self.kind == "hard":
            return losses.hard_distillation(student_logits, teacher_logits)
        return losses.soft_distillation(student_logits, teacher_logits, self.temperature)


@dataclass(frozen=True)
class Objective:
    """The training loss of a batch, per row.

    Attributes:
        model: The student model.
        preprocessing: The preprocessing of its images.
        label_smoothing: The weight of the uniform distribution in the targets.
        mixing: Mixup and CutMix.
        erasing: The probability of random erasing.
        mix_token: Whether to mix patches instead of pixels (MixToken; Jiang et al., 2021).
        token_labels: The weight of the loss on patch tokens. With 0 it is disabled, and the loss on labels reads the
            logits of evaluation instead of the class token's.
        teacher: The teacher, or None.
    """

    model: ViT
    preprocessing: Preprocessing
    label_smoothing: float = 0.0
    mixing: Mixing = field(default_factory=Mixing)
    erasing: float = 0.0
    mix_token: bool = False
    token_labels: float = 0.0
    teacher: Teacher | None = None

    @property
    def uses_pairs(self) -> bool:
        """Whether rows are mixed with their partners."""
        return self.mix_token or self.mixing.mixup > 0 or self.mixing.cutmix > 0

    def __call__(
        self,
        variables: Mapping[str, Any],
        teacher_variables: Mapping[str, Any],
        batch: Mapping[str, Array],
        key: Key[Array, ""],
        rows: Rows | None = None,
    ) -> tuple[Float[Array, " B"], dict[str, Any]]:
        """Compute the loss of every row.

        Args:
            variables: The student's variables.
            teacher_variables: The teacher's variables; empty without a teacher.
            batch: `image` uint8 `[B, H, W, C]` and `label` int32 `[B]`; with label maps, the input of
                `losses.label_map_targets` as well.
            key: The random key of the batch.
            rows: The rows of the global batch that `batch` holds; None if it holds all of them.

        Returns:
            The loss `[B]` float32, and the updated batch statistics of the model.
        """
        images = normalize(batch["image"], self.preprocessing.mean, self.preprocessing.std)
        target, patch_target = self._targets(batch)
        if self.erasing:
            images = random_erasing(jax.random.fold_in(key, 1), images, self.erasing, rows)
        if self.mixing.mixup or self.mixing.cutmix:
            mix = self.mixing.draw(jax.random.fold_in(key, 2), image_size(images))
            images, target = mix_images(images, mix), mix_targets(target, mix.target_weight)
        mix_mask, weight = None, jnp.float32(1)
        if self.mix_token:
            mix_mask = draw_mix_mask(jax.random.fold_in(key, 3), self.model.grid)
            weight = 1 - mix_mask.mean(dtype=jnp.float32)
        outputs, statistics = self.model.apply(
            variables, images, train=True, rows=rows, patches=self._needs_patches, mix_mask=mix_mask, method="outputs",
            rngs={"dropout": key}, mutable=["batch_stats"],
        )  # fmt: skip
        heads, tokens = cast(tuple[HeadOutputs, Tokens], outputs)
        image_target = mix_targets(target, weight) if self.mix_token else target
        label_logits = heads.class_token if self._uses_class_token_logits else heads.logits
        loss = losses.cross_entropy(label_logits, image_target)
        if self.teacher is not None:
            teacher_images = _renormalize(images, self.preprocessing, self.teacher.preprocessing)
            teacher_outputs = self.teacher.model.apply(
                teacher_variables, teacher_images, patches=self.teacher.tokens > 0, mix_mask=mix_mask, method="outputs"
            )
            teacher_heads, teacher_tokens = cast(tuple[HeadOutputs, Tokens], jax.lax.stop_gradient(teacher_outputs))
            student_logits, teacher_logits = self._distillation_logits(heads, teacher_heads)
            distillation_loss = self.teacher.loss(student_logits, teacher_logits)
            loss = (1 - self.teacher.weight) * loss + self.teacher.weight * distillation_loss
            if self.teacher.tokens:
                loss = loss + self.teacher.tokens * _token_distillation_loss(tokens, teacher_tokens)
        if self.token_labels:
            patch_target = target[:, None] if patch_target is None else patch_target
            loss = loss + self.token_labels * _token_label_loss(heads, tokens, patch_target, mix_mask)
        return loss, dict(statistics)

    def _targets(
        self, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, "B classes"], Float[Array, "B N0 classes"] | None]:
        """Return the targets of the images, and those of their patches if the batch has label maps."""
        if "map_scores" in batch:
            return losses.label_map_targets(batch, self.model.num_classes, self.label_smoothing)
        return losses.label_targets(batch["label"], self.model.num_classes, self.label_smoothing), None

    @property
    def _needs_patches(self) -> bool:
        """Whether a loss reads the patch tokens."""
        return self.token_labels > 0 or (self.teacher is not None and self.teacher.tokens > 0)

    @property
    def _uses_class_token_logits(self) -> bool:
        """Whether the loss on labels reads the class token's logits, because other heads have other targets."""
        return self.token_labels > 0 or (self.model.distilled and self.teacher is not None)

    def _distillation_logits(
        self, student: HeadOutputs, teacher: HeadOutputs
    ) -> tuple[Float[Array, "B classes"], Float[Array, "B classes"]]:
        """Return the logits of the student and of the teacher that the distillation loss compares."""
        if self.model.distilled:
            return student.distillation_token, teacher.logits
        if self.token_labels:
            return student.class_token, teacher.class_token
        return student.logits, teacher.logits


def _token_distillation_loss(student: Tokens, teacher: Tokens) -> Float[Array, " B"]:
    """Return the loss of the student's restored patches against the teacher's, `[B]`."""
    student_patches = plans.restore(student.patches, student.slots, student.restore_weights)
    teacher_patches = plans.restore(teacher.patches, teacher.slots, teacher.restore_weights)
    mask = student.slots >= 0 if student.restore_weights is None else student.restore_weights.sum(-1) > 0
    return losses.token_distillation(student_patches, teacher_patches, mask)


def _token_label_loss(
    heads: HeadOutputs,
    tokens: Tokens,
    target: Float[Array, "B labels classes"],
    mix_mask: Bool[Array, " N0"] | None,
) -> Float[Array, " B"]:
    """Return the loss of the patch tokens, whose targets are pooled by the same plans as the tokens.

    Args:
        heads: The outputs of the model's classifiers.
        tokens: The tokens after the last block.
        target: `[B, N0, classes]`, the target of every patch, or `[B, 1, classes]`, one target for all patches of an
            image.
        mix_mask: `[N0]` bool, the patches that were taken from the partner, or None.

    Returns:
        `[B]`.
    """
    assert heads.patch_tokens is not None, "the model has no head on its patch tokens"
    count = tokens.slots.shape[1]
    target = jnp.broadcast_to(target, (target.shape[0], count, target.shape[2]))
    if mix_mask is not None:
        target = mix_targets(target, 1 - mix_mask[None, :, None].astype(jnp.float32))
    target, patch_count = plans.pool_patches(target, tokens.slots, tokens.origin.shape[1], tokens.restore_weights)
    return losses.token_label_loss(heads.patch_tokens, target, patch_count)


def draw_mix_mask(key: Key[Array, ""], grid: tuple[int, int]) -> Bool[Array, " N0"]:
    """Draw MixToken's box of patches.

    It covers `1 - lam` of the grid, with `lam` uniform, around a uniform center.

    Args:
        key: The random key.
        grid: The number of patches in height and width.

    Returns:
        `[N0]` bool, True for patches inside the box.
    """
    lam_key, row_key, column_key = jax.random.split(key, 3)
    lam, center = jax.random.uniform(lam_key, (), jnp.float32), draw_center(row_key, column_key, grid)
    return box_mask(cutmix_box(grid, lam, center), grid).reshape(-1)


def _renormalize(
    images: Float[Array, "B height width C"], source: Preprocessing, target: Preprocessing
) -> Float[Array, "B height width C"]:
    """Convert images from the normalization of one model to that of another."""
    if (source.mean, source.std) == (target.mean, target.std):
        return images
    mean, std, target_mean, target_std = (
        jnp.array(value, images.dtype)[None, None, None] for value in (source.mean, source.std, target.mean, target.std)
    )
    return (images * std + mean - target_mean) / target_std
