"""The head of a ViT: the last norm, pooling, and a classifier for each class token."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models.checks import check_count, check_drop_rate
from tcvit_jax.models.layers import Dropout, kernel_init, layer_norm
from tcvit_jax.models.parts import HeadOutputs
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens


class PooledHead(nn.Module):
    """The `Head` of a ViT: reads the class token or the mean of the patches, and any distillation token.

    Without classes (`num_classes=0`) the pooled features `[B, D]` stand for the logits.
    """

    embed_dim: int
    num_classes: int
    class_token: bool
    distilled: bool
    prefix: int
    global_pool: str
    fc_norm: bool | None
    norm_eps: float
    drop_rate: float
    active_reducer: Reducer | None
    dtype: str

    @property
    def reads_prefix_only(self) -> bool:
        """Whether it reads no patch token."""
        return self.global_pool == "token"

    @property
    def has_patch_logits(self) -> bool:
        """Whether it has logits for every patch token."""
        return False

    def macs(self, patches: int) -> int:
        """Return the multiply-adds of one image; they do not depend on the patch tokens that are left."""
        return self.embed_dim * self.num_classes * (1 + self.distilled)

    def check(self) -> None:
        """Raise an `InputError` for values that do not fit each other."""
        check_count(num_classes=self.num_classes)
        check_drop_rate(drop_rate=self.drop_rate)
        if self.global_pool not in ("token", "avg"):
            raise unknown("global_pool", self.global_pool, ("token", "avg"))
        if self.global_pool == "token" and not self.class_token:
            raise InputError("global_pool='token' reads the class token, and class_token=False: use global_pool='avg'")
        if self.distilled and self.global_pool != "token":
            raise InputError(f"global_pool={self.global_pool!r} has no place for a distillation token: use 'token'")

    @property
    def _norm_after_pooling(self) -> bool:
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    def setup(self) -> None:
        """Sub-modules, under timm's names."""
        if self._norm_after_pooling:
            self.fc_norm_layer = layer_norm(self.norm_eps, "fc_norm", self.dtype)
        else:
            self.norm = layer_norm(self.norm_eps, None, self.dtype)
        self.head_drop = Dropout(self.drop_rate)
        if self.num_classes:
            self.head = classifier(self.num_classes, self.dtype)
            if self.distilled:
                self.head_dist = classifier(self.num_classes, self.dtype)

    def normalize(self, tokens: Tokens) -> Tokens:
        """Apply the last norm, where it comes before the pooling."""
        return tokens if self._norm_after_pooling else tokens.with_x(self.norm(tokens.x))

    def __call__(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> HeadOutputs:
        """Classify normalized tokens; see `Head`."""
        x = tokens.x
        pooled = self._mean(x[:, self.prefix :], tokens.size) if self.global_pool == "avg" else x[:, 0]
        logits = self._before_classifier(pooled, train, rows)
        logits = self.head(logits) if self.num_classes else logits
        if not self.distilled:
            logits = logits.astype(jnp.float32)
            return HeadOutputs(logits, logits, logits)
        other = self._before_classifier(x[:, 1], train, rows)
        other = self.head_dist(other) if self.num_classes else other
        mean = (logits + other) / 2
        return HeadOutputs(mean.astype(jnp.float32), logits.astype(jnp.float32), other.astype(jnp.float32))

    def _mean(self, x: Float[Array, "B N D"], size: Float[Array, "B N"]) -> Float[Array, "B D"]:
        """Return the mean of patch tokens, each weighted by its size if the reducer's sizes are weights."""
        if self.active_reducer is None or not self.active_reducer.uses_size_weights:
            return x.mean(1)
        share = size / size.sum(-1, keepdims=True)
        return jnp.einsum("bn,bnd->bd", share, x.astype(jnp.float32), precision="highest").astype(x.dtype)

    def _before_classifier(self, pooled: Float[Array, "B D"], train: bool, rows: Rows | None) -> Float[Array, "B D"]:
        pooled = self.fc_norm_layer(pooled) if self._norm_after_pooling else pooled
        return self.head_drop(pooled, train, rows)


def classifier(num_classes: int, dtype: str) -> nn.Dense:
    """Return a linear layer to the logits of all classes."""
    return nn.Dense(num_classes, dtype=dtype, kernel_init=kernel_init)
