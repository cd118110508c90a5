"""Head of a ViT: final norm, pooling, and one classifier each for the class and the distillation token."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import conflicts, requires, unknown
from tcvit_jax.models.checks import check_count, check_drop_rate
from tcvit_jax.models.layers import Dropout, kernel_init, layer_norm, mlp_width
from tcvit_jax.models.parts import HeadOutputs
from tcvit_jax.models.pooling import AttentionPool, attention_pool_macs, mean
from tcvit_jax.ops.attention import size_bias
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens

GLOBAL_POOLS = ("token", "avg", "token_avg", "map")


class PooledHead(nn.Module):
    """`Head` of a ViT that classifies pooled tokens, and a distillation token if it has a classifier.

    Without classes (`num_classes=0`) the pooled features take the place of the logits: `[B, D]`, or `[B, 2 * D]` for
    `global_pool="token_avg"`.
    """

    embed_dim: int
    num_heads: int
    mlp_ratio: float
    mlp_hidden: int
    act_layer: str
    num_classes: int
    class_token: bool
    distilled: bool
    dist_head: bool
    prefix: int
    global_pool: str
    fc_norm: bool | None
    final_norm: bool
    norm_eps: float
    drop_rate: float
    active_reducer: Reducer | None
    dtype: str

    @property
    def reads_prefix_only(self) -> bool:
        """Whether the head reads no patch token."""
        return self.global_pool == "token"

    @property
    def has_patch_logits(self) -> bool:
        """Whether the head returns logits for every patch token."""
        return False

    def macs(self, patches: int) -> int:
        """Return the multiply-adds for one image with `patches` remaining patch tokens."""
        width = self.embed_dim * (2 if self.global_pool == "token_avg" else 1)
        pooling = attention_pool_macs(patches, self.embed_dim, self._mlp_width) if self.global_pool == "map" else 0
        return pooling + width * self.num_classes * (1 + self._has_dist_head)

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range, or `global_pool` does not fit the prefix tokens.
        """
        check_count(num_classes=self.num_classes)
        check_drop_rate(drop_rate=self.drop_rate)
        if self.global_pool not in GLOBAL_POOLS:
            raise unknown("global_pool", self.global_pool, GLOBAL_POOLS)
        if self.global_pool in ("token", "token_avg") and not self.class_token:
            raise requires(f"global_pool={self.global_pool!r}", "class_token=True", "use global_pool='avg'")
        if self.distilled and self.global_pool != "token":
            raise conflicts("distilled=True", f"global_pool={self.global_pool!r}", "use global_pool='token'")
        if self.fc_norm and self.global_pool in ("token_avg", "map"):
            raise conflicts("fc_norm=True", f"global_pool={self.global_pool!r}", "use fc_norm=False")
        if self.fc_norm and not self.final_norm:
            raise conflicts("fc_norm=True", "final_norm=False", "use fc_norm=False")

    @property
    def _norm_after_pooling(self) -> bool:
        is_default = self.global_pool == "avg" and self.final_norm
        return is_default if self.fc_norm is None else self.fc_norm

    @property
    def _has_dist_head(self) -> bool:
        return self.distilled and self.dist_head

    @property
    def _mlp_width(self) -> int:
        return mlp_width(self.embed_dim, self.mlp_ratio, self.mlp_hidden)

    def setup(self) -> None:
        """Create submodules with timm's names."""
        if self._norm_after_pooling:
            self.fc_norm_layer = layer_norm(self.norm_eps, "fc_norm", self.dtype)
        elif self.final_norm:
            self.norm = layer_norm(self.norm_eps, None, self.dtype)
        if self.global_pool == "map":
            self.attn_pool = AttentionPool(
                self.num_heads, self._mlp_width, self.act_layer, self.norm_eps, self.dtype
            )  # fmt: skip
        self.head_drop = Dropout(self.drop_rate)
        if self.num_classes:
            self.head = classifier(self.num_classes, self.dtype)
            if self._has_dist_head:
                self.head_dist = classifier(self.num_classes, self.dtype)

    def normalize(self, tokens: Tokens) -> Tokens:
        """Apply the final norm if it comes before the pooling."""
        has_norm = self.final_norm and not self._norm_after_pooling
        return tokens.with_x(self.norm(tokens.x)) if has_norm else tokens

    def __call__(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> HeadOutputs:
        """Classify normalized tokens, see `Head`."""
        x = tokens.x
        logits = self._before_classifier(self._pool(tokens), train, rows)
        logits = self.head(logits) if self.num_classes else logits
        if not self._has_dist_head:
            logits = logits.astype(jnp.float32)
            return HeadOutputs(logits, logits, logits)
        distillation = self._before_classifier(x[:, 1], train, rows)
        distillation = self.head_dist(distillation) if self.num_classes else distillation
        average = (logits + distillation) / 2
        return HeadOutputs(average.astype(jnp.float32), logits.astype(jnp.float32), distillation.astype(jnp.float32))

    def _pool(self, tokens: Tokens) -> Float[Array, "B features"]:
        """Return the features of an image. Patch tokens are weighted by size if the reducer `uses_size_weights`."""
        x = tokens.x
        if self.global_pool == "token":
            return x[:, 0]
        uses_sizes = self.active_reducer is not None and self.active_reducer.uses_size_weights
        if self.global_pool == "map":
            # The counterpart of a weighted mean: a token counts as often as it holds patches.
            has_padding = self.active_reducer is not None and self.active_reducer.has_padding
            needs_bias = uses_sizes or has_padding
            bias = size_bias(tokens.size, uses_sizes, has_padding) if needs_bias else None
            return self.attn_pool(x[:, self.prefix :], bias, has_padding)
        average = mean(x[:, self.prefix :], tokens.size if uses_sizes else None)
        return average if self.global_pool == "avg" else jnp.concatenate([x[:, 0], average], axis=-1)

    def _before_classifier(
        self, pooled: Float[Array, "B features"], train: bool, rows: Rows | None
    ) -> Float[Array, "B features"]:
        pooled = self.fc_norm_layer(pooled) if self._norm_after_pooling else pooled
        return self.head_drop(pooled, train, rows)


def classifier(num_classes: int, dtype: str) -> nn.Dense:
    """Return a linear layer that computes the logits."""
    return nn.Dense(num_classes, dtype=dtype, kernel_init=kernel_init)
