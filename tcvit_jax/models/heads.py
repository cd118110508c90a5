"""Head of a ViT: final norm, pooling, and one classifier each for the class and the distillation token."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.errors import conflicts, requires, unknown
from tcvit_jax.models.checks import check_count, check_drop_rate
from tcvit_jax.models.layers import Dropout, kernel_init, layer_norm
from tcvit_jax.models.parts import HeadOutputs
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens


class PooledHead(nn.Module):
    """`Head` of a ViT that reads the class token or the mean of the patch tokens, and a distillation token if present.

    Without classes (`num_classes=0`) the pooled features `[B, D]` take the place of the logits.
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
        """Whether the head reads no patch token."""
        return self.global_pool == "token"

    @property
    def has_patch_logits(self) -> bool:
        """Whether the head returns logits for every patch token."""
        return False

    def macs(self, patches: int) -> int:
        """Return the multiply-adds for one image; they do not depend on the number of patch tokens."""
        return self.embed_dim * self.num_classes * (1 + self.distilled)

    def check(self) -> None:
        """Check the fields.

        Raises:
            InputError: A field is out of range, or `global_pool` does not fit the prefix tokens.
        """
        check_count(num_classes=self.num_classes)
        check_drop_rate(drop_rate=self.drop_rate)
        if self.global_pool not in ("token", "avg"):
            raise unknown("global_pool", self.global_pool, ("token", "avg"))
        if self.global_pool == "token" and not self.class_token:
            raise requires("global_pool='token'", "class_token=True", "use global_pool='avg'")
        if self.distilled and self.global_pool != "token":
            raise conflicts("distilled=True", f"global_pool={self.global_pool!r}", "use global_pool='token'")

    @property
    def _norm_after_pooling(self) -> bool:
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    def setup(self) -> None:
        """Create submodules with timm's names."""
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
        """Apply the final norm if it comes before the pooling."""
        return tokens if self._norm_after_pooling else tokens.with_x(self.norm(tokens.x))

    def __call__(self, tokens: Tokens, train: bool, rows: Rows | None = None) -> HeadOutputs:
        """Classify normalized tokens, see `Head`."""
        x = tokens.x
        pooled = self._mean(x[:, self.prefix :], tokens.size) if self.global_pool == "avg" else x[:, 0]
        logits = self._before_classifier(pooled, train, rows)
        logits = self.head(logits) if self.num_classes else logits
        if not self.distilled:
            logits = logits.astype(jnp.float32)
            return HeadOutputs(logits, logits, logits)
        distillation = self._before_classifier(x[:, 1], train, rows)
        distillation = self.head_dist(distillation) if self.num_classes else distillation
        mean = (logits + distillation) / 2
        return HeadOutputs(mean.astype(jnp.float32), logits.astype(jnp.float32), distillation.astype(jnp.float32))

    def _mean(self, x: Float[Array, "B N D"], size: Float[Array, "B N"]) -> Float[Array, "B D"]:
        """Return the mean of the patch tokens, weighted by size if the reducer `uses_size_weights`."""
        if self.active_reducer is None or not self.active_reducer.uses_size_weights:
            return x.mean(1)
        weights = size / size.sum(-1, keepdims=True)
        return jnp.einsum("bn,bnd->bd", weights, x.astype(jnp.float32), precision="highest").astype(x.dtype)

    def _before_classifier(self, pooled: Float[Array, "B D"], train: bool, rows: Rows | None) -> Float[Array, "B D"]:
        pooled = self.fc_norm_layer(pooled) if self._norm_after_pooling else pooled
        return self.head_drop(pooled, train, rows)


def classifier(num_classes: int, dtype: str) -> nn.Dense:
    """Return a linear layer that computes the logits."""
    return nn.Dense(num_classes, dtype=dtype, kernel_init=kernel_init)
