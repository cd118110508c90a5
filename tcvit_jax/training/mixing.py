"""Mixup, CutMix and random erasing of normalized images, on the device that holds them.

A row is mixed with its partner (`ops.rows.swap_pairs`). Draws are apart from what is done with them.
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

# Random erasing (Zhong et al., 2020) as timm sets it: shares of the area, and the least aspect ratio.
_AREA, _ASPECT, _ATTEMPTS = (0.02, 1 / 3), 0.3, 10


class Mix(NamedTuple):
    """One draw for a batch: where `inside`, a pixel is its partner's; elsewhere `share` of it is its own.

    Attributes:
        share: float32 scalar, of mixup; 1 leaves images as they are.
        inside: `[H, W]` bool, the box of CutMix.
        label: float32 scalar, the part of the target that is a row's own.
    """

    share: Float[Array, ""]
    inside: Bool[Array, "height width"]
    label: Float[Array, ""]


@dataclass(frozen=True)
class Mixing:
    """timm's `Mixup` in its mode "batch": one draw for all pairs of a step.

    Attributes:
        mixup: alpha of the Beta distribution of mixup (Zhang et al., 2018); 0 is off.
        cutmix: alpha of CutMix (Yun et al., 2019); 0 is off.
        prob: the probability that a batch is mixed at all.
        switch_prob: that it is CutMix, where both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def draw(self, key: Key[Array, ""], size: tuple[int, int]) -> Mix:
        """One draw for images of `size` (height, width)."""
        mixes, cuts, lam_mixup, lam_cutmix, row, column = jax.random.split(key, 6)
        share = jax.random.beta(lam_mixup, self.mixup, self.mixup) if self.mixup else jnp.float32(1)
        box = jnp.zeros(4, jnp.int32)
        if self.cutmix:
            lam = jax.random.beta(lam_cutmix, self.cutmix, self.cutmix)
            center = jnp.stack([jax.random.randint(k, (), 0, n) for k, n in zip((row, column), size, strict=True)])
            box = cut_box(size, lam, center)
        both = self.mixup and self.cutmix
        cut = jax.random.bernoulli(cuts, self.switch_prob) if both else jnp.bool_(self.cutmix > 0)
        mixed = jax.random.bernoulli(mixes, self.prob)
        return mix(jnp.where(mixed & ~cut, share, 1.0), jnp.where(mixed & cut, box, 0), size)


def cut_box(size: tuple[int, int], lam: Float[Array, ""], center: Int[Array, " 2"]) -> Int[Array, " 4"]:
    """CutMix's box `(top, bottom, left, right)`, `1 - lam` of the area around a center, cut off at the borders."""
    sides = [jnp.floor(side * jnp.sqrt(1 - lam)).astype(jnp.int32) for side in size]
    edges: list[Array] = []
    for axis, side in enumerate(size):
        edges += [center[axis] - sides[axis] // 2, center[axis] + (sides[axis] + 1) // 2]
        edges[-2:] = [jnp.clip(edge, 0, side) for edge in edges[-2:]]
    return jnp.stack(edges)


def mix(share: Float[Array, ""], box: Int[Array, " 4"], size: tuple[int, int]) -> Mix:
    """The `Mix` of a share and a box `(top, bottom, left, right)`, of which one is 1 or empty."""
    inside = in_box(box, size)
    return Mix(share, inside, jnp.where(inside.any(), 1 - inside.mean(dtype=jnp.float32), share))


def sides(images: Num[Array, "B height width C"]) -> tuple[int, int]:
    """Height and width of `[B, H, W, C]`."""
    return images.shape[1], images.shape[2]


def in_box(box: Int[Array, "... 4"], size: tuple[int, int]) -> Bool[Array, "... height width"]:
    """`[..., H, W]` bool, which pixels lie in the boxes `[..., 4]` (top, bottom, left, right)."""
    top, bottom, left, right = jnp.moveaxis(box, -1, 0)[..., None, None]
    row, column = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    return (top <= row) & (row < bottom) & (left <= column) & (column < right)


def mix_images(images: Float[Array, "B height width C"], mixed: Mix) -> Float[Array, "B height width C"]:
    """`[B, H, W, C]` images, each mixed with its partner."""
    other = swap_pairs(images)
    blended = images * mixed.share + other * (1 - mixed.share)
    return jnp.where(mixed.inside[:, :, None], other, blended)


def mix_targets(target: Float[Array, "B ..."], own: Float[Array, "*axes"]) -> Float[Array, "B ..."]:
    """`own` of every row's target `[B, ...]`, and the rest of its partner's."""
    return target * own + swap_pairs(target) * (1 - own)


def erasing_boxes(key: Key[Array, ""], rows: Rows, size: tuple[int, int], prob: float) -> Int[Array, "B 4"]:
    """A box of random erasing for every row, `[B, 4]` int32 (top, bottom, left, right); empty where nothing is erased.

    Of ten boxes drawn the first that fits is taken, as in timm.
    """

    def one(key: Key[Array, ""]) -> Int[Array, " 4"]:
        erases, shape, place = jax.random.split(key, 3)
        area, aspect = jax.random.uniform(shape, (2, _ATTEMPTS))
        area = (_AREA[0] + (_AREA[1] - _AREA[0]) * area) * (size[0] * size[1])
        aspect = jnp.exp((2 * aspect - 1) * -math.log(_ASPECT))
        sides = jnp.round(jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)])).astype(jnp.int32)
        free = jnp.array(size)[:, None] - sides
        fits = (free > 0).all(0)
        first = jnp.argmax(fits)
        height, width = sides[:, first]
        top, left = jnp.floor(jax.random.uniform(place, (2,)) * (free[:, first] + 1)).astype(jnp.int32)
        erased = fits.any() & (jax.random.uniform(erases) < prob)
        return jnp.where(erased, jnp.stack([top, top + height, left, left + width]), 0)

    return jax.vmap(one)(rows.keys(key))


def erase(
    images: Float[Array, "B height width C"], boxes: Int[Array, "B 4"], noise: Float[Array, "B height width C"]
) -> Float[Array, "B height width C"]:
    """`images [B, H, W, C]` with the pixels in each one's box replaced by those of `noise`."""
    return jnp.where(in_box(boxes, sides(images))[..., None], noise, images)


def random_erasing(
    key: Key[Array, ""], images: Float[Array, "B height width C"], prob: float, rows: Rows | None = None
) -> Float[Array, "B height width C"]:
    """Random erasing of normalized images `[B, H, W, C]`: with probability `prob`, a box of Gaussian noise.

    `rows` are those of the global batch; None where the images are all of it.
    """
    where, what = jax.random.split(key)
    rows = Rows.resolve(rows, images.shape[0])
    boxes = erasing_boxes(where, rows, sides(images), prob)
    noise = jax.vmap(partial(jax.random.normal, shape=images.shape[1:]))(rows.keys(what))
    return erase(images, boxes, noise.astype(images.dtype))
