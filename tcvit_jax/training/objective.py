"""What a training step minimizes: the loss of every row, from uint8 images to one number each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key

from tcvit_jax.models import ViT
from tcvit_jax.models.parts import HeadOutputs
from tcvit_jax.models.zoo import Preprocessing
from tcvit_jax.ops import plans
from tcvit_jax.ops.images import normalize
from tcvit_jax.ops.rows import Rows
from tcvit_jax.tokens import Tokens
from tcvit_jax.training import losses
from tcvit_jax.training.mixing import Mixing, cut_box, in_box, mix_images, mix_targets, random_erasing, sides


@dataclass(frozen=True)
class Teacher:
    """Who is learned from, and how.

    Attributes:
        model, preprocessing: the teacher's; its variables are given to each step.
        kind: `"soft"`, its distribution, or `"hard"`, its most likely class.
        weight: the part of the loss that distillation has; labels have the rest.
        temperature: of `"soft"`.
        tokens: the weight of the difference of restored patches from the teacher's; 0 is off.
    """

    model: ViT
    preprocessing: Preprocessing
    kind: str = "soft"
    weight: float = 0.5
    temperature: float = 1.0
    tokens: float = 0.0

    def loss(self, logits: Float[Array, "B classes"], taught: Float[Array, "B classes"]) -> Float[Array, " B"]:
        """`[B]`: distillation of `logits` towards the teacher's, `taught`."""
        if self.kind == "hard":
            return losses.hard_distillation(logits, taught)
        return losses.soft_distillation(logits, taught, self.temperature)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch, row by row.

    Attributes:
        model, preprocessing: the student's.
        label_smoothing: of the labels.
        mixing: mixup and CutMix.
        erasing: the probability of random erasing.
        mix_token: whether patches are mixed instead of pixels (MixToken; Jiang et al., 2021).
        token_labels: the weight of the loss of every patch token; 0 is off, and logits are then those of evaluation.
        teacher: who is learned from; None for nobody.
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
    def pairs(self) -> bool:
        """Whether a row is mixed with its partner."""
        return self.mix_token or self.mixing.mixup > 0 or self.mixing.cutmix > 0

    def __call__(
        self,
        variables: Mapping[str, Any],
        taught: Mapping[str, Any],
        batch: Mapping[str, Array],
        key: Key[Array, ""],
        rows: Rows | None = None,
    ) -> tuple[Float[Array, " B"], dict[str, Any]]:
        """The loss of every row, `[B]` float32, and the batch statistics that the model has moved on.

        Args:
            variables: the student's.
            taught: the teacher's; empty where there is none.
            batch: `image` uint8 `[B, H, W, C]`, `label` int32 `[B]`; with label maps what `losses.map_targets` reads.
            key: of every random choice of this batch.
            rows: of the global batch; None where the batch is all of it.
        """
        images = normalize(batch["image"], self.preprocessing.mean, self.preprocessing.std)
        target, of_patches = self._targets(batch)
        if self.erasing:
            images = random_erasing(jax.random.fold_in(key, 1), images, self.erasing, rows)
        if self.mixing.mixup or self.mixing.cutmix:
            mixed = self.mixing.draw(jax.random.fold_in(key, 2), sides(images))
            images, target = mix_images(images, mixed), mix_targets(target, mixed.label)
        patches, own = None, jnp.float32(1)
        if self.mix_token:
            patches = mixed_patches(jax.random.fold_in(key, 3), self.model.grid)
            own = 1 - patches.mean(dtype=jnp.float32)
        found, statistics = self.model.apply(
            variables, images, train=True, rows=rows, patches=self._reads_patches, mix_mask=patches, method="outputs",
            rngs={"dropout": key}, mutable=["batch_stats"],
        )  # fmt: skip
        heads, tokens = cast(tuple[HeadOutputs, Tokens], found)
        whole = mix_targets(target, own) if self.mix_token else target
        loss = losses.cross_entropy(heads.class_token if self._reads_heads_apart else heads.logits, whole)
        if self.teacher is not None:
            shown = _renormalized(images, self.preprocessing, self.teacher.preprocessing)
            found = self.teacher.model.apply(
                taught, shown, patches=self.teacher.tokens > 0, mix_mask=patches, method="outputs"
            )
            said, dense = cast(tuple[HeadOutputs, Tokens], jax.lax.stop_gradient(found))
            logits, theirs = self._compared(heads, said)
            loss = (1 - self.teacher.weight) * loss + self.teacher.weight * self.teacher.loss(logits, theirs)
            if self.teacher.tokens:
                loss = loss + self.teacher.tokens * _of_patches(tokens, dense)
        if self.token_labels:
            of_patches = target[:, None] if of_patches is None else of_patches
            loss = loss + self.token_labels * _of_tokens(heads, tokens, of_patches, patches)
        return loss, dict(statistics)

    def _targets(
        self, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, "B classes"], Float[Array, "B N0 classes"] | None]:
        """The distributions of images, and those of their patches where the batch brings label maps."""
        if "map_scores" in batch:
            return losses.map_targets(batch, self.model.num_classes, self.label_smoothing)
        return losses.targets(batch["label"], self.model.num_classes, self.label_smoothing), None

    @property
    def _reads_patches(self) -> bool:
        return self.token_labels > 0 or (self.teacher is not None and self.teacher.tokens > 0)

    @property
    def _reads_heads_apart(self) -> bool:
        """Whether other logits than the class token's learn from something else than labels."""
        return self.token_labels > 0 or (self.model.distilled and self.teacher is not None)

    def _compared(
        self, heads: HeadOutputs, said: HeadOutputs
    ) -> tuple[Float[Array, "B classes"], Float[Array, "B classes"]]:
        """Which of the student's logits learn from which of the teacher's."""
        if self.model.distilled:
            return heads.distillation_token, said.logits
        if self.token_labels:
            return heads.class_token, said.class_token
        return heads.logits, said.logits


def _of_patches(tokens: Tokens, dense: Tokens) -> Float[Array, " B"]:
    """`[B]`: how far the student's patches, restored, are from the teacher's."""
    patches = plans.restore(tokens.patches, tokens.slots, tokens.restore_weights)
    wanted = plans.restore(dense.patches, dense.slots, dense.restore_weights)
    held = tokens.slots >= 0 if tokens.restore_weights is None else tokens.restore_weights.sum(-1) > 0
    return losses.token_distillation(patches, wanted, held)


def _of_tokens(
    heads: HeadOutputs, tokens: Tokens, target: Float[Array, "B labels classes"], mixed: Bool[Array, " N0"] | None
) -> Float[Array, " B"]:
    """`[B]`: the loss of the patch tokens, against labels that were condensed by the same plans.

    Args:
        heads, tokens: of the model.
        target: of every patch, `[B, N0, classes]`, or of all of an image's, `[B, 1, classes]`.
        mixed: `[N0]`, which patches are the partner's.
    """
    assert heads.patch_tokens is not None, "a model without a head on its patch tokens"
    count = tokens.slots.shape[1]
    target = jnp.broadcast_to(target, (target.shape[0], count, target.shape[2]))
    if mixed is not None:
        target = mix_targets(target, 1 - mixed[:, None].astype(jnp.float32))
    target, held = plans.pool_patches(target, tokens.slots, tokens.origin.shape[1], tokens.restore_weights)
    return losses.token_labels(heads.patch_tokens, target, held)


def mixed_patches(key: Key[Array, ""], grid: tuple[int, int]) -> Bool[Array, " N0"]:
    """MixToken's box of patches, `[N0]` bool: of `1 - lam` of the grid, `lam` uniform, around a uniform center."""
    share, row, column = jax.random.split(key, 3)
    center = jnp.stack([jax.random.randint(k, (), 0, n) for k, n in zip((row, column), grid, strict=True)])
    return in_box(cut_box(grid, jax.random.uniform(share), center), grid).reshape(-1)


def _renormalized(
    images: Float[Array, "B height width C"], ours: Preprocessing, theirs: Preprocessing
) -> Float[Array, "B height width C"]:
    """Images normalized as one model has them, as another one wants them."""
    if (ours.mean, ours.std) == (theirs.mean, theirs.std):
        return images
    mean, std, to_mean, to_std = (jnp.array(v) for v in (ours.mean, ours.std, theirs.mean, theirs.std))
    return (images * std + mean - to_mean) / to_std
