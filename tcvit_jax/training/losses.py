"""Losses per row: each returns `[B]`, and training minimizes the mean over the global batch."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs]
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Shaped


def label_targets(label: Int[Array, " B"], classes: int, smoothing: float) -> Float32[Array, "B {classes}"]:
    """Return the target distributions of labels, with label smoothing (Szegedy et al., 2016).

    Args:
        label: `[B]` int, class indices.
        classes: The number of classes.
        smoothing: The weight of the uniform distribution.

    Returns:
        `[B, classes]` float32.
    """
    return optax.smooth_labels(jax.nn.one_hot(label, classes, dtype=jnp.float32), smoothing)


def label_map_targets(
    batch: Mapping[str, Shaped[Array, "B ..."]], classes: int, smoothing: float
) -> tuple[Float32[Array, "B {classes}"], Float32[Array, "B patches {classes}"]]:
    """Return the target distributions of label maps, for the image and for every patch.

    The formula is in `data.label_maps`.

    Args:
        batch: `map_scores` float32 and `map_classes` int32, `[B, 5, h, w]`, and the crop's `map_rows [B, gh, h]`,
            `map_columns [B, gw, w]`, `map_image_rows [B, h]` and `map_image_columns [B, w]`.
        classes: The number of classes.
        smoothing: The weight of the uniform distribution.

    Returns:
        `[B, classes]` and `[B, gh * gw, classes]`, patches in raster order.
    """
    scores, index = batch["map_scores"], batch["map_classes"]
    class_index = jnp.arange(classes, dtype=index.dtype)[None, None, None]
    dense = sum(
        jnp.where(index[:, k, ..., None] == class_index, scores[:, k, ..., None], 0) for k in range(scores.shape[1])
    )
    # Keep the longest axis, the classes, last, and interpolate one axis of the crop at a time.
    rows = jnp.einsum("byh,bhwc->bywc", batch["map_rows"], dense, precision="highest")
    patches = jnp.einsum("bxw,bywc->byxc", batch["map_columns"], rows, precision="highest")
    image = jnp.einsum(
        "bh,bhwc,bw->bc", batch["map_image_rows"], dense, batch["map_image_columns"], precision="highest"
    )
    patches = patches.reshape(patches.shape[0], patches.shape[1] * patches.shape[2], classes)
    return (
        optax.smooth_labels(jax.nn.softmax(image), smoothing),
        optax.smooth_labels(jax.nn.softmax(patches), smoothing),
    )


def cross_entropy(logits: Float[Array, "B classes"], target: Float[Array, "B classes"]) -> Float[Array, " B"]:
    """Return the softmax cross-entropy, `[B]`, of logits `[B, classes]` against distributions `[B, classes]`."""
    return optax.softmax_cross_entropy(logits, target)


def soft_distillation(
    student_logits: Float[Array, "B classes"], teacher_logits: Float[Array, "B classes"], temperature: float
) -> Float[Array, " B"]:
    """Return the soft distillation loss (Hinton et al., 2015; DeiT, equation 2).

    This is `T^2 KL(softmax(teacher_logits / T) || softmax(student_logits / T))`.

    Args:
        student_logits: `[B, classes]`.
        teacher_logits: `[B, classes]`.
        temperature: The temperature `T`.

    Returns:
        `[B]`.
    """
    log_p = jax.nn.log_softmax(teacher_logits / temperature)
    log_q = jax.nn.log_softmax(student_logits / temperature)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_q, log_p)


def hard_distillation(
    student_logits: Float[Array, "B classes"], teacher_logits: Float[Array, "B classes"]
) -> Float[Array, " B"]:
    """Return the cross-entropy, `[B]`, against the teacher's most likely class (DeiT, equation 3).

    Args:
        student_logits: `[B, classes]`.
        teacher_logits: `[B, classes]`.
    """
    return optax.softmax_cross_entropy_with_integer_labels(student_logits, teacher_logits.argmax(-1))


def token_distillation(
    student_patches: Float[Array, "B N0 D"], teacher_patches: Float[Array, "B N0 D"], mask: Bool[Array, "B N0"]
) -> Float32[Array, " B"]:
    """Return the mean squared error of the student's restored patches against the dense teacher's.

    This is DynamicViT's loss on kept tokens (Rao et al., 2021, equation 8). A patch that was fused into another token
    is compared with the fused token.

    Args:
        student_patches: `[B, N0, D]`, restored.
        teacher_patches: `[B, N0, D]`.
        mask: `[B, N0]` bool, the patches that the student's tokens represent.

    Returns:
        `[B]` float32, the mean over the patches in `mask`; 0 if there is none.
    """
    squared = jnp.square(student_patches.astype(jnp.float32) - teacher_patches.astype(jnp.float32)).mean(-1)
    return jnp.where(mask, squared, 0).sum(-1) / jnp.maximum(mask.sum(-1, dtype=jnp.float32), 1)


def token_label_loss(
    logits: Float[Array, "B N classes"], target: Float[Array, "B N classes"], count: Float32[Array, "B N"]
) -> Float[Array, " B"]:
    """Return the mean cross-entropy over patch tokens, weighted by the number of patches in each token.

    Without reduction, this is the mean over tokens of LV-ViT's token labeling (Jiang et al., 2021, equation 4).

    Args:
        logits: `[B, N, classes]`.
        target: `[B, N, classes]`, the target distribution of each token.
        count: `[B, N]`, the number of patches in each token. Tokens with 0 patches are ignored.

    Returns:
        `[B]`.
    """
    losses = optax.softmax_cross_entropy(logits, target)
    return (jnp.where(count > 0, losses, 0) * count).sum(-1) / jnp.maximum(count.sum(-1), 1)
