"""Rotary position embeddings of patches in two dimensions (Su et al., 2021), as in EVA-02 and DINOv3.

Each pair of channels of a query or key is rotated by an angle that is proportional to a coordinate of its patch: the
first half of the pairs by the row, the second half by the column. The two kinds differ in the coordinates, in the
frequencies and in the pairs:

- `"cat"` (EVA-02; Fang et al., 2023) counts patches on a reference grid, and pairs neighboring channels.
- `"dinov3"` (Simeoni et al., 2025) maps each axis to [-1, 1], and pairs the two halves of a head.

The tables are computed with NumPy in float32, in the order of operations of timm and transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int32

from tcvit_jax.ops.gather import take_rows

ROPE_TYPES = ("cat", "dinov3")


class Rotation(NamedTuple):
    """Rotation of the patch tokens of a batch.

    Attributes:
        cos: `[B or 1, N, d]` float32.
        sin: `[B or 1, N, d]` float32.
        is_interleaved: Whether neighboring channels form a pair, instead of the two halves of a head.
    """

    cos: Float32[Array, "_ N d"]
    sin: Float32[Array, "_ N d"]
    is_interleaved: bool


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of the patches of a grid.

    Attributes:
        rope_type: One of `ROPE_TYPES`.
        temperature: Base of the frequencies, which are its powers with exponents from 0 down to almost -1; called theta
            elsewhere.
        grid: Number of patches along height and width.
        head_dim: Number of channels of a head, a multiple of 4.
        ref_feat_shape: Side of the reference grid of `"cat"`.
    """

    rope_type: str
    temperature: float
    grid: tuple[int, int]
    head_dim: int
    ref_feat_shape: int

    def coordinates(self) -> Float32[np.ndarray, "N0 2"]:
        """Return the row and column coordinate of each patch in raster order, `[N0, 2]` float32, in radians."""
        axes = [self._coordinate(np.arange(side, dtype=np.float32), side) for side in self.grid]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)

    def _coordinate(self, index: np.ndarray, side: int) -> np.ndarray:
        if self.rope_type == "dinov3":
            return np.float32(2 * np.pi) * (
                np.float32(2) * ((index + np.float32(0.5)) / np.float32(side)) - np.float32(1)
            )
        return index / np.float32(side) * np.float32(self.ref_feat_shape)

    def frequencies(self) -> Float32[np.ndarray, " {self.head_dim//4}"]:
        """Return the factor on a coordinate for each pair of channels, from 1 downwards, `[d / 4]` float32."""
        exponent = np.arange(self.head_dim // 4, dtype=np.float32) / np.float32(self.head_dim // 4)
        return np.float32(1) / np.float32(self.temperature) ** exponent

    @property
    def is_interleaved(self) -> bool:
        """Whether neighboring channels form a pair, instead of the two halves of a head."""
        return self.rope_type == "cat"

    def rotation(self) -> Rotation:
        """Return the rotation of all patches in raster order, with constants `[1, N0, d]`."""
        cos, sin = _table(self)
        return Rotation(jnp.asarray(cos)[None], jnp.asarray(sin)[None], self.is_interleaved)

    def rotation_of(self, origin: Int32[Array, "B N"], slots: Int32[Array, "B N0"], max_fused: int) -> Rotation:
        """Return the rotation of the tokens that remain.

        A token keeps the position of its original patch, and so a merged token that of its host, bit for bit. A token
        that was fused from removed tokens alone gets the mean position of the patches that it holds, which is the mean
        of the fused tokens weighted by their sizes.

        Args:
            origin: `[B, N]`, the original patch of each token; -1 for fused tokens, which come last.
            slots: `[B, N0]`, the token that holds each original patch, or -1.
            max_fused: Largest number of fused tokens.

        Returns:
            `cos` and `sin` `[B, N, d]` float32.
        """
        cos, sin = _table(self)
        table = jnp.concatenate([jnp.asarray(cos), jnp.asarray(sin)], axis=-1)
        table = jnp.broadcast_to(table, (origin.shape[0], *table.shape))
        rows = take_rows(table, jnp.maximum(origin, 0))
        if max_fused:
            first = origin.shape[1] - min(max_fused, origin.shape[1])
            fused = self._fused_rows(slots, jnp.arange(first, origin.shape[1], dtype=jnp.int32))
            last = jnp.where((origin[:, first:] < 0)[..., None], fused, rows[:, first:])
            rows = jnp.concatenate([rows[:, :first], last], axis=1)
        return Rotation(rows[..., : self.head_dim], rows[..., self.head_dim :], self.is_interleaved)

    def _fused_rows(self, slots: Int32[Array, "B N0"], index: Int32[Array, " K"]) -> Float32[Array, "B K channels"]:
        """Return the table rows of tokens at the mean coordinates of their patches; 0 for a token without patches."""
        is_held = (slots[:, None, :] == index[None, :, None]).astype(jnp.float32)
        count = is_held.sum(-1, keepdims=True)
        total = jnp.einsum("bkn,nc->bkc", is_held, jnp.asarray(self.coordinates()), precision="highest")
        mean = total / jnp.maximum(count, 1)
        angles = mean[..., :, None] * jnp.asarray(self.frequencies())[None, None, None]
        angles = _spread(angles.reshape(*mean.shape[:2], -1), self.is_interleaved, jnp)
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


@cache
def _table(rotary: Rotary) -> tuple[Float32[np.ndarray, "N0 d"], Float32[np.ndarray, "N0 d"]]:
    """Return the cosines and sines of all patches in raster order."""
    angles = rotary.coordinates()[:, :, None] * rotary.frequencies()
    angles = _spread(angles.reshape(len(angles), -1), rotary.is_interleaved, np)
    return np.cos(angles), np.sin(angles)


def _spread(angles: Any, is_interleaved: bool, xp: Any) -> Any:
    """Return one angle per channel, `[..., d]`, from one angle per pair, `[..., d / 2]`, with the functions of `xp`."""
    return xp.repeat(angles, 2, axis=-1) if is_interleaved else xp.concatenate([angles, angles], axis=-1)


def rotate_patches(x: Float[Array, "B H T d"], rotation: Rotation) -> Float[Array, "B H T d"]:
    """Rotate the queries or keys of the patch tokens, which come last. Prefix tokens have no position.

    Args:
        x: `[B, H, T, d]`.
        rotation: The rotation of the patch tokens.

    Returns:
        `[B, H, T, d]` in the dtype of `x`; the rotation is computed in float32.
    """
    prefix = x.shape[2] - rotation.cos.shape[1]
    patches = x[:, :, prefix:].astype(jnp.float32)
    cos, sin = rotation.cos[:, None], rotation.sin[:, None]
    rotated = patches * cos + _quarter_turn(patches, rotation.is_interleaved) * sin
    return jnp.concatenate([x[:, :, :prefix], rotated.astype(x.dtype)], axis=2)


def _quarter_turn(x: Float32[Array, "B H N d"], is_interleaved: bool) -> Float32[Array, "B H N d"]:
    """Return the pairs `(a, b)` of channels as `(-b, a)`."""
    if is_interleaved:
        pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
        return jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-second, first], axis=-1)
