"""Embedding of images: patches, prefix tokens and position embeddings."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from tcvit_jax.errors import out_of_range, unknown
from tcvit_jax.models.checks import check_count, check_drop_rate, check_multiple, check_positive
from tcvit_jax.models.layers import Dropout, layer_norm
from tcvit_jax.ops.rows import Rows, swap_pairs

POSITION_EMBEDDINGS = ("learn", "none")


@runtime_checkable
class Stem(Protocol):
    """A Flax module that maps images to patch features."""

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        ...

    def __call__(self, images: Float[Array, "B height width C"], train: bool) -> Float[Array, "B rows columns D"]:
        """Map images `[B, H, W, C]` to patch features `[B, H / patch_size, W / patch_size, D]`."""
        ...


class PatchStem(nn.Module):
    """Patch embedding by one convolution whose stride is its kernel size."""

    img_size: tuple[int, int]
    in_chans: int
    patch_size: int
    width: int
    use_bias: bool
    dtype: str

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        patches = (self.img_size[0] // self.patch_size) * (self.img_size[1] // self.patch_size)
        return patches * self.patch_size**2 * self.in_chans * self.width

    def setup(self) -> None:
        """Create the convolution in the scope of this module."""
        patch = (self.patch_size, self.patch_size)
        self.conv = nn.Conv(
            self.width, patch, strides=patch, padding="VALID", use_bias=self.use_bias, dtype=self.dtype,
            kernel_init=nn.initializers.lecun_normal(),
        )  # fmt: skip
        nn.share_scope(self, self.conv)

    def __call__(self, images: Float[Array, "B height width C"], train: bool) -> Float[Array, "B rows columns D"]:
        """Map images `[B, H, W, C]` to patch features `[B, H / patch_size, W / patch_size, D]`."""
        return self.conv(images)


class PatchEmbedding(nn.Module):
    """`Embedding` of a ViT. Subclasses override `make_stem` for another stem."""

    img_size: tuple[int, int]
    patch_size: int
    in_chans: int
    embed_dim: int
    class_token: bool
    distilled: bool
    reg_tokens: int
    pos_embed: str
    no_embed_class: bool
    no_embed_reg: bool
    allow_remainder: bool
    pre_norm: bool
    norm_eps: float
    pos_drop_rate: float
    dtype: str

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches along height and width."""
        return self.img_size[0] // self.patch_size, self.img_size[1] // self.patch_size

    @property
    def class_tokens(self) -> int:
        """Number of class and distillation tokens."""
        return int(self.class_token) + int(self.distilled)

    @property
    def prefix(self) -> int:
        """Number of prefix tokens in front of the patches; reducers never remove them."""
        return self.class_tokens + self.reg_tokens

    @property
    def embedded_prefix(self) -> int:
        """Number of leading prefix tokens that have a position embedding."""
        if self.no_embed_class:
            return 0
        return self.class_tokens if self.no_embed_reg else self.prefix

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.make_stem().macs

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range, or `img_size` is not a multiple of `patch_size` without
                `allow_remainder`.
        """
        if self.pos_embed not in POSITION_EMBEDDINGS:
            raise unknown("pos_embed", self.pos_embed, POSITION_EMBEDDINGS)
        check_positive(patch_size=self.patch_size, in_chans=self.in_chans)
        check_count(reg_tokens=self.reg_tokens)
        check_drop_rate(pos_drop_rate=self.pos_drop_rate)
        for side in self.img_size:
            if not self.allow_remainder:
                check_multiple("img_size", side, "patch_size", self.patch_size)
            elif side < self.patch_size:
                raise out_of_range("img_size", side, f">= patch_size={self.patch_size}")

    def make_stem(self) -> Stem:
        """Return the unbound stem."""
        return PatchStem(
            self.img_size, self.in_chans, self.patch_size, self.embed_dim, not self.pre_norm, self.dtype, parent=None
        )

    def setup(self) -> None:
        """Create submodules and parameters with timm's names."""
        self.patch_embed = self.make_stem()
        counts = {"cls_token": int(self.class_token), "dist_token": int(self.distilled), "reg_token": self.reg_tokens}
        self.prefix_tokens = [
            self.param(name, nn.initializers.normal(1e-6), (1, count, self.embed_dim), jnp.float32)
            for name, count in counts.items()
            if count
        ]
        if self.pos_embed == "learn":
            positions = self.embedded_prefix + self.grid[0] * self.grid[1]
            self.positions = self.param(
                "pos_embed", nn.initializers.normal(0.02), (1, positions, self.embed_dim), jnp.float32
            )
        self.pos_drop = Dropout(self.pos_drop_rate)
        if self.pre_norm:
            self.norm_pre = layer_norm(self.norm_eps, None, self.dtype)

    def __call__(
        self,
        images: Float[Array, "B height width C"],
        train: bool,
        rows: Rows | None = None,
        mix_mask: Bool[Array, " N0"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Embed images, see `Embedding`."""
        x = self.patch_embed(images.astype(self.dtype), train)
        x = x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])
        if mix_mask is not None:
            x = jnp.where(mix_mask[None, :, None], swap_pairs(x), x)
        prefix = [jnp.broadcast_to(p, (x.shape[0], *p.shape[1:])).astype(x.dtype) for p in self.prefix_tokens]
        x = jnp.concatenate([*prefix, x], axis=1)
        if self.pos_embed == "learn":
            x = self._add_positions(x)
        x = self.pos_drop(x, train, rows)
        return self.norm_pre(x) if self.pre_norm else x

    def _add_positions(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Add position embeddings to `x`, except to the prefix tokens that have none."""
        positions, embedded = self.positions.astype(x.dtype), self.embedded_prefix
        if embedded == self.prefix:
            return x + positions
        patches = x[:, self.prefix :] + positions[:, embedded:]
        return jnp.concatenate(
            [x[:, :embedded] + positions[:, :embedded], x[:, embedded : self.prefix], patches], axis=1
        )
