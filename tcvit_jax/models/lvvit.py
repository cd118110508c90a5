"""LV-ViT (Jiang et al., 2021, "All Tokens Matter"): convolutional stem, scaled residuals, and a head on every token."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import out_of_range
from tcvit_jax.models import tables
from tcvit_jax.models.checks import check_count, check_drop_rate, check_positive
from tcvit_jax.models.embedding import PatchEmbedding, Stem
from tcvit_jax.models.heads import classifier
from tcvit_jax.models.layers import Dropout, layer_norm
from tcvit_jax.models.parts import Embedding, Head, HeadOutputs
from tcvit_jax.models.vit import ViT
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens


class ConvStem(nn.Module):
    """Stem of three convolutions with batch norm, the first of stride 2, followed by a patch convolution."""

    img_size: tuple[int, int]
    in_chans: int
    patch_size: int
    width: int
    channels: int
    dtype: str

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        half, channels = (self.img_size[0] // 2) * (self.img_size[1] // 2), self.channels
        convolutions = half * channels * (49 * self.in_chans + 2 * 9 * channels)
        return convolutions + half * channels * self.width

    @nn.compact
    def __call__(self, images: Float[Array, "B height width C"], train: bool) -> Float[Array, "B rows columns D"]:
        """Map images `[B, H, W, C]` to patch features `[B, H / patch_size, W / patch_size, D]`.

        In evaluation, batch norm uses its running statistics. In training it uses the statistics of the global batch
        across all devices, and `apply` must be called with `mutable=["batch_stats"]`.
        """
        # Inside `shard_map` a device sees only its own rows, so the statistics are averaged over these mesh axes.
        axes: Any = jax.sharding.get_abstract_mesh().manual_axes or None
        x = images
        for index, (size, stride) in enumerate(((7, 2), (3, 1), (3, 1)), 1):
            # "SAME" would pad only one side for a stride of 2.
            x = nn.Conv(
                self.channels, (size, size), strides=stride, padding=size // 2, use_bias=False, dtype=self.dtype,
                name=f"conv{index}",
            )(x)  # fmt: skip
            x = nn.BatchNorm(
                not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False, axis_name=axes, name=f"bn{index}",
            )(x.astype(jnp.float32))  # fmt: skip
            x = jax.nn.relu(x.astype(self.dtype))
        patch = (self.patch_size // 2, self.patch_size // 2)
        return nn.Conv(self.width, patch, strides=patch, padding="VALID", dtype=self.dtype, name="proj")(x)


class ConvEmbedding(PatchEmbedding):
    """`Embedding` with a `ConvStem`."""

    stem_channels: int

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range, or sizes do not fit each other.
        """
        super().check()
        if self.patch_size % 2:
            raise out_of_range("patch_size", self.patch_size, "even", "the stem has a convolution of stride 2")
        check_positive(stem_channels=self.stem_channels)

    def make_stem(self) -> Stem:
        """Return the unbound stem."""
        return ConvStem(
            self.img_size, self.in_chans, self.patch_size, self.embed_dim, self.stem_channels, self.dtype, parent=None
        )


class TokenLabelHead(nn.Module):
    """LV-ViT head: class-token logits plus half of the per-class maximum of the patch-token logits.

    Without classes (`num_classes=0`) the features of the class token `[B, D]` take the place of the logits.
    """

    embed_dim: int
    num_classes: int
    prefix: int
    norm_eps: float
    drop_rate: float
    active_reducer: Reducer | None
    dtype: str

    @property
    def reads_prefix_only(self) -> bool:
        """Whether the head reads no patch token, which is the case only without classes."""
        return self.num_classes == 0

    @property
    def has_patch_logits(self) -> bool:
        """Whether the head returns logits for every patch token."""
        return self.num_classes > 0

    def macs(self, patches: int) -> int:
        """Return the multiply-adds for one image with `patches` remaining patch tokens."""
        return self.embed_dim * self.num_classes * (1 + patches)

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range.
        """
        check_count(num_classes=self.num_classes)
        check_drop_rate(drop_rate=self.drop_rate)

    def setup(self) -> None:
        """Create submodules with the names of the official code."""
        self.norm = layer_norm(self.norm_eps, None, self.dtype)
        self.head_drop = Dropout(self.drop_rate)
        if self.num_classes:
            self.head = classifier(self.num_classes, self.dtype)
            self.aux_head = classifier(self.num_classes, self.dtype)

    def normalize(self, tokens: Tokens) -> Tokens:
        """Apply the final norm."""
        return tokens.with_x(self.norm(tokens.x))

    def __call__(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> HeadOutputs:
        """Classify normalized tokens, see `Head`."""
        x = self.head_drop(tokens.x, train, rows)
        if not self.num_classes:
            pooled = x[:, 0].astype(jnp.float32)
            return HeadOutputs(pooled, pooled, pooled)
        class_logits, patch_logits = self.head(x[:, 0]), self.aux_head(x[:, self.prefix :])
        masked_logits = patch_logits
        if self.active_reducer is not None and self.active_reducer.has_padding:
            masked_logits = jnp.where(tokens.size[..., None] > 0, patch_logits, -jnp.inf)
        logits = (class_logits + 0.5 * masked_logits.max(1)).astype(jnp.float32)
        class_logits = class_logits.astype(jnp.float32)
        return HeadOutputs(logits, class_logits, class_logits, patch_logits.astype(jnp.float32))


class LVViT(ViT):
    """LV-ViT, created by `create_model`. Its variables include batch statistics.

    Attributes:
        stem_channels: Number of channels of the convolutions in the stem.
    """

    mlp_ratio: float = 3.0
    qkv_bias: bool = False
    norm_eps: float = 1e-5
    stem_channels: int = 64

    EMBEDDING_CLASS: ClassVar[type[Embedding]] = ConvEmbedding
    HEAD_CLASS: ClassVar[type[Head]] = TokenLabelHead
    FIXED_FIELDS: ClassVar[dict[str, Any]] = {
        "class_token": True, "distilled": False, "global_pool": "token", "fc_norm": None, "final_norm": True,
        "pre_norm": False, "allow_remainder": False,
    }  # fmt: skip
    PARAMETERS: ClassVar[tables.ParameterTable] = tables.LVVIT
