"""Losses by row: each is `[B]`, and what is minimized is the mean over the global batch."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax  # pyright: ignore[reportMissingTypeStubs]
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Shaped


def targets(label: Int[Array, " B"], classes: int, smoothing: float) -> Float32[Array, "B {classes}"]:
    """`[B, classes]` of labels `[B]`, smoothed towards the uniform distribution (Szegedy et al., 2016)."""
    return optax.smooth_labels(jax.nn.one_hot(label, classes), smoothing)


def map_targets(
    batch: Mapping[str, Shaped[Array, "B ..."]], classes: int, smoothing: float
) -> tuple[Float32[Array, "B {classes}"], Float32[Array, "B patches {classes}"]]:
    """Smoothed distributions of label maps (`data.label_maps` has the formula): of the image, and of every patch.

    Args:
        batch: with `map_scores` float32 and `map_classes` int32, `[B, 5, h, w]`, and the crop's `map_rows [B, gh, h]`,
            `map_columns [B, gw, w]`, `map_image_rows [B, h]` and `map_image_columns [B, w]`.
        classes: how many there are.
        smoothing: towards the uniform distribution.

    Returns:
        `[B, classes]` and `[B, gh * gw, classes]`, patches in raster order.
    """
    scores, index = batch["map_scores"], batch["map_classes"]
    every = jnp.arange(classes)
    dense = sum(jnp.where(index[:, k, ..., None] == every, scores[:, k, ..., None], 0) for k in range(scores.shape[1]))
    # The longest axis last, and one side of the box after the other.
    rows = jnp.einsum("byh,bhwc->bywc", batch["map_rows"], dense, precision="highest")
    patches = jnp.einsum("bxw,bywc->byxc", batch["map_columns"], rows, precision="highest")
    image = jnp.einsum(
        "bh,bhwc,bw->bc", batch["map_image_rows"], dense, batch["map_image_columns"], precision="highest"
    )
    patches = patches.reshape(patches.shape[0], -1, classes)
    return (
        optax.smooth_labels(jax.nn.softmax(image), smoothing),
        optax.smooth_labels(jax.nn.softmax(patches), smoothing),
    )


def cross_entropy(logits: Float[Array, "B classes"], target: Float[Array, "B classes"]) -> Float[Array, " B"]:
    """`[B]`: softmax cross-entropy of logits against a distribution, both `[B, classes]`."""
    return optax.softmax_cross_entropy(logits, target)


def soft_distillation(
    logits: Float[Array, "B classes"], teacher: Float[Array, "B classes"], temperature: float
) -> Float[Array, " B"]:
    """`[B]`: `T^2 KL(softmax(teacher / T) || softmax(logits / T))` (Hinton et al., 2015; DeiT, equation 2)."""
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_q, log_p)


def hard_distillation(logits: Float[Array, "B classes"], teacher: Float[Array, "B classes"]) -> Float[Array, " B"]:
    """`[B]`: cross-entropy against the teacher's most likely class (DeiT, equation 3)."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(-1))


def token_distillation(
    patches: Float[Array, "B N0 D"], teacher: Float[Array, "B N0 D"], held: Bool[Array, "B N0"]
) -> Float32[Array, " B"]:
    """`[B]`: mean squared difference of restored patches from the dense model's, `[B, N0, D]`, where they are `held`.

    As DynamicViT's (Rao et al., 2021, equation 8) on the tokens it keeps; a patch that was fused into another token is
    compared with what that token has become.
    """
    squared = jnp.square(patches.astype(jnp.float32) - teacher.astype(jnp.float32)).mean(-1)
    return (squared * held).sum(-1) / jnp.maximum(held.sum(-1), 1)


def token_labels(
    logits: Float[Array, "B N classes"], target: Float[Array, "B N classes"], count: Float32[Array, "B N"]
) -> Float[Array, " B"]:
    """`[B]`: mean cross-entropy of every token's logits, weighted by how many patches it holds.

    Without reduction the mean over tokens of LV-ViT's token labels (Jiang et al., 2021, equation 4).

    Args:
        logits: `[B, N, classes]`.
        target: `[B, N, classes]`, each token's distribution.
        count: `[B, N]`, of patches.
    """
    each = optax.softmax_cross_entropy(logits, target)
    return (jnp.where(count > 0, each, 0) * count).sum(-1) / jnp.maximum(count.sum(-1), 1)
