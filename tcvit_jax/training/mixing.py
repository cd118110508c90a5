"""Mixup, CutMix and random erasing of normalized images, on the device.

A row is mixed with its partner (`ops.rows.swap_pairs`). Random draws are separate from the operations that use them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Key, Num

from tcvit_jax.ops.rows import Rows, swap_pairs

# timm's settings of random erasing (Zhong et al., 2020): area fractions, minimum aspect ratio and attempts.
_AREA, _ASPECT, _ATTEMPTS = (0.02, 1 / 3), 0.3, 10


class Mix(NamedTuple):
    """The parameters that mix a batch.

    Attributes:
        weight: float32 scalar, mixup's weight of a row's own pixels; 1 leaves them unchanged.
        box: `[H, W]` bool, CutMix's box of pixels that are taken from the partner.
        target_weight: float32 scalar, the weight of a row's own target.
    """

    weight: Float[Array, ""]
    box: Bool[Array, "height width"]
    target_weight: Float[Array, ""]


@dataclass(frozen=True)
class Mixing:
    """timm's `Mixup` with `mode="batch"`: one draw for all pairs of a step.

    Attributes:
        mixup: Alpha of the Beta distribution of mixup (Zhang et al., 2018); 0 disables it.
        cutmix: Alpha of the Beta distribution of CutMix (Yun et al., 2019); 0 disables it.
        prob: The probability that a batch is mixed.
        switch_prob: The probability of CutMix instead of mixup if both are enabled.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def draw(self, key: Key[Array, ""], size: tuple[int, int]) -> Mix:
        """Draw the parameters for one batch.

        Args:
            key: The random key.
            size: The height and width of the images.
        """
        prob_key, switch_key, mixup_key, cutmix_key, row_key, column_key = jax.random.split(key, 6)
        weight, box = jnp.float32(1), jnp.zeros(4, jnp.int32)
        if self.mixup:
            weight = jax.random.beta(mixup_key, self.mixup, self.mixup, dtype=jnp.float32)
        if self.cutmix:
            lam = jax.random.beta(cutmix_key, self.cutmix, self.cutmix, dtype=jnp.float32)
            box = cutmix_box(size, lam, draw_center(row_key, column_key, size))
        is_cutmix = jnp.bool_(self.cutmix > 0)
        if self.mixup and self.cutmix:
            is_cutmix = jax.random.bernoulli(switch_key, jnp.float32(self.switch_prob))
        is_active = jax.random.bernoulli(prob_key, jnp.float32(self.prob))
        return make_mix(jnp.where(is_active & ~is_cutmix, weight, 1.0), jnp.where(is_active & is_cutmix, box, 0), size)


def draw_center(row_key: Key[Array, ""], column_key: Key[Array, ""], size: tuple[int, int]) -> Int[Array, " 2"]:
    """Draw the center of a box, uniformly over an image.

    Args:
        row_key: The random key of the row.
        column_key: The random key of the column.
        size: The height and width of the image.

    Returns:
        `[2]` int32, the row and the column.
    """
    keys = zip((row_key, column_key), size, strict=True)
    return jnp.stack([jax.random.randint(key, (), 0, side, jnp.int32) for key, side in keys])


def cutmix_box(size: tuple[int, int], lam: Float[Array, ""], center: Int[Array, " 2"]) -> Int[Array, " 4"]:
    """Return CutMix's box, which covers `1 - lam` of the area around a center and is clipped at the borders.

    Args:
        size: The height and width of the image.
        lam: The fraction of the area outside the box.
        center: The row and column of the center.

    Returns:
        `[4]` int32: top, bottom, left, right.
    """
    sides = [jnp.floor(side * jnp.sqrt(1 - lam)).astype(jnp.int32) for side in size]
    edges: list[Array] = []
    for axis, side in enumerate(size):
        edges += [center[axis] - sides[axis] // 2, center[axis] + (sides[axis] + 1) // 2]
        edges[-2:] = [jnp.clip(edge, 0, side) for edge in edges[-2:]]
    return jnp.stack(edges)


def make_mix(weight: Float[Array, ""], box: Int[Array, " 4"], size: tuple[int, int]) -> Mix:
    """Return the `Mix` of a mixup weight and a CutMix box, of which at most one has an effect.

    Args:
        weight: Mixup's weight of a row's own pixels; 1 for CutMix.
        box: `[4]` int32 (top, bottom, left, right); empty for mixup.
        size: The height and width of the images.
    """
    mask = box_mask(box, size)
    return Mix(weight, mask, jnp.where(mask.any(), 1 - mask.mean(dtype=jnp.float32), weight))


def image_size(images: Num[Array, "B height width C"]) -> tuple[int, int]:
    """Return the height and width of images `[B, H, W, C]`."""
    return images.shape[1], images.shape[2]


def box_mask(box: Int[Array, "... 4"], size: tuple[int, int]) -> Bool[Array, "... height width"]:
    """Return which pixels lie inside boxes.

    Args:
        box: `[..., 4]` int (top, bottom, left, right).
        size: The height `H` and width `W` of the image.

    Returns:
        `[..., H, W]` bool.
    """
    top, bottom, left, right = jnp.moveaxis(box, -1, 0)[..., None, None]
    axes = range(top.ndim - 2, top.ndim)
    row, column = (jax.lax.broadcasted_iota(top.dtype, (*(1,) * (top.ndim - 2), *size), axis) for axis in axes)
    return (top <= row) & (row < bottom) & (left <= column) & (column < right)


def mix_images(images: Float[Array, "B height width C"], mix: Mix) -> Float[Array, "B height width C"]:
    """Mix images `[B, H, W, C]` with their partners."""
    partner = swap_pairs(images)
    mixup = images * mix.weight + partner * (1 - mix.weight)
    return jnp.where(mix.box[None, :, :, None], partner, mixup)


def mix_targets(target: Float[Array, "B ..."], weight: Float[Array, "*axes"]) -> Float[Array, "B ..."]:
    """Mix targets with those of their partners.

    Args:
        target: `[B, ...]`.
        weight: The weight of a row's own target, broadcastable to `target`.

    Returns:
        `[B, ...]`.
    """
    return target * weight + swap_pairs(target) * (1 - weight)


def draw_erasing_boxes(key: Key[Array, ""], rows: Rows, size: tuple[int, int], prob: float) -> Int[Array, "B 4"]:
    """Draw a box of random erasing for every row.

    As in timm, ten boxes are drawn and the first one that fits is used.

    Args:
        key: The random key.
        rows: The rows of the global batch that the batch holds.
        size: The height and width of the images.
        prob: The probability of erasing.

    Returns:
        `[B, 4]` int32 (top, bottom, left, right); the box is empty where nothing is erased.
    """

    def draw_box(key: Key[Array, ""]) -> Int[Array, " 4"]:
        prob_key, shape_key, position_key = jax.random.split(key, 3)
        area, aspect = jax.random.uniform(shape_key, (2, _ATTEMPTS), jnp.float32)
        area = (_AREA[0] + (_AREA[1] - _AREA[0]) * area) * (size[0] * size[1])
        aspect = jnp.exp((2 * aspect - 1) * -math.log(_ASPECT))
        sides = jnp.round(jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)])).astype(jnp.int32)
        margin = jnp.array(size, jnp.int32)[:, None] - sides
        fits = (margin > 0).all(0)
        first = jnp.argmax(fits)
        height, width = sides[:, first]
        count = (margin[:, first] + 1).astype(jnp.float32)
        top, left = jnp.floor(jax.random.uniform(position_key, (2,), jnp.float32) * count).astype(jnp.int32)
        is_erased = fits.any() & (jax.random.uniform(prob_key, (), jnp.float32) < prob)
        return jnp.where(is_erased, jnp.stack([top, top + height, left, left + width]), 0)

    return jax.vmap(draw_box)(rows.keys(key))


def erase(
    images: Float[Array, "B height width C"], boxes: Int[Array, "B 4"], noise: Float[Array, "B height width C"]
) -> Float[Array, "B height width C"]:
    """Replace the pixels inside each image's box by noise.

    Args:
        images: `[B, H, W, C]`.
        boxes: `[B, 4]` int (top, bottom, left, right).
        noise: `[B, H, W, C]`.

    Returns:
        `[B, H, W, C]`.
    """
    return jnp.where(box_mask(boxes, image_size(images))[..., None], noise, images)


def random_erasing(
    key: Key[Array, ""], images: Float[Array, "B height width C"], prob: float, rows: Rows | None = None
) -> Float[Array, "B height width C"]:
    """Apply random erasing to normalized images: a box of Gaussian noise, with probability `prob` per image.

    Args:
        key: The random key.
        images: `[B, H, W, C]`.
        prob: The probability of erasing.
        rows: The rows of the global batch that `images` holds; None if it holds all of them.

    Returns:
        `[B, H, W, C]`.
    """
    box_key, noise_key = jax.random.split(key)
    rows = Rows.resolve(rows, images.shape[0])
    boxes = draw_erasing_boxes(box_key, rows, image_size(images), prob)
    noise = jax.vmap(partial(jax.random.normal, shape=images.shape[1:], dtype=jnp.float32))(rows.keys(noise_key))
    return erase(images, boxes, noise.astype(images.dtype))
