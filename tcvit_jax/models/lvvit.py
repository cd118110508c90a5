"""LV-ViT (Jiang et al., 2021, "All Tokens Matter"): a convolutional stem, scaled residuals, a head on every token."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tcvit_jax.errors import InputError
from tcvit_jax.models import tables
from tcvit_jax.models.vit import Heads, ViT
from tcvit_jax.tokens import Tokens


class ConvStem(nn.Module):
    """Three convolutions with batch norm, the first of stride 2, and one that cuts what they see into patches."""

    width: int
    channels: int
    patch_size: int
    dtype: str

    @nn.compact
    def __call__(self, images: Array, train: bool) -> Array:
        """`[B, H, W, C]` to `[B, H / patch_size, W / patch_size, D]`.

        Batch norm uses its running statistics unless training. In training they are those of the global batch,
        on however many devices, and `apply` has to be called with `mutable=["batch_stats"]`.
        """
        # Where a device sees its own rows alone, the axes that the others lie on.
        axes: Any = jax.sharding.get_abstract_mesh().manual_axes or None
        x = images
        for index, (size, stride) in enumerate(((7, 2), (3, 1), (3, 1)), 1):
            # "SAME" would pad a stride of 2 on one side alone.
            x = nn.Conv(
                self.channels, (size, size), strides=stride, padding=size // 2, use_bias=False, dtype=self.dtype,
                name=f"conv{index}",
            )(x)  # fmt: skip
            x = nn.BatchNorm(
                not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, axis_name=axes,
                name=f"bn{index}",
            )(x)  # fmt: skip
            x = jax.nn.relu(x)
        patch = (self.patch_size // 2, self.patch_size // 2)
        return nn.Conv(self.width, patch, strides=patch, padding="VALID", dtype=self.dtype, name="proj")(x)


class LVViT(ViT):
    """LV-ViT; make one with `create_model`. Its variables have batch statistics beside the parameters.

    Logits are those of the class token and half the greatest, class by class, of the patch tokens that are left
    (`head(class) + 0.5 max(aux_head(patches))`).
    """

    mlp_ratio: float = 3.0
    qkv_bias: bool = False
    norm_eps: float = 1e-5
    stem_channels: int = 64

    FIXED: ClassVar[dict[str, Any]] = {
        "class_token": True, "distilled": False, "global_pool": "token", "fc_norm": None, "pre_norm": False,
    }  # fmt: skip
    PARAMETERS: ClassVar[tables.ParameterTable] = tables.LVVIT

    @property
    def reads_prefix_alone(self) -> bool:
        """Whether the head reads nothing of the patch tokens: here it reads all of them."""
        return self.num_classes == 0

    @property
    def labels_patches(self) -> bool:
        """Whether it has a head on every patch token."""
        return self.num_classes > 0

    def check_stem(self) -> None:
        """Raise an `InputError` unless the stem can cut images into patches of `patch_size`."""
        if self.patch_size % 2:
            raise InputError(f"patch_size={self.patch_size} is odd: the stem halves images before it cuts them")
        if self.stem_channels < 1:
            raise InputError(f"stem_channels={self.stem_channels} is not positive")

    @property
    def _embed_macs(self) -> int:
        half, channels = (self.img_size[0] // 2) * (self.img_size[1] // 2), self.stem_channels
        convolutions = half * channels * (49 * self.in_chans + 2 * 9 * channels)
        return convolutions + half * channels * self.embed_dim

    @property
    def _patch_classes(self) -> int:
        return self.num_classes

    def setup(self) -> None:
        """As `ViT`'s, and the head of the patch tokens."""
        super().setup()
        if self.num_classes:
            self.aux_head = self._classifier()

    def _stem(self) -> nn.Module:
        return ConvStem(self.embed_dim, self.stem_channels, self.patch_size, self.dtype)

    def _patches(self, images: Array, train: bool) -> Array:
        return self.patch_embed(images, train)

    def heads(self, tokens: Tokens, train: bool) -> Heads:
        """Of the class token and of every patch token; logits are the first's, and half of the best of the others'."""
        x = self.head_drop(tokens.x, train)
        if not self.num_classes:
            pooled = x[:, 0].astype(jnp.float32)
            return Heads(pooled, pooled, pooled)
        found, aux = self.head(x[:, 0]), self.aux_head(x[:, self.prefix :])
        best = aux
        if self.reducer is not None and self.reducer.masks and any(self.removed):
            best = jnp.where(tokens.size[..., None] > 0, aux, -jnp.inf)
        logits = (found + 0.5 * best.max(1)).astype(jnp.float32)
        found = found.astype(jnp.float32)
        return Heads(logits, found, found, aux.astype(jnp.float32))
