"""Pooling of tokens: their mean, and attention pooling with a learned query."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.models.layers import Mlp, dense, layer_norm
from tcvit_jax.ops.attention import attention


def mean(x: Float[Array, "B N D"], size: Float[Array, "B N"] | None) -> Float[Array, "B D"]:
    """Return the mean of tokens, weighted by their sizes.

    Args:
        x: `[B, N, D]` tokens.
        size: `[B, N]` sizes, or None for equal weights.

    Returns:
        `[B, D]` in the dtype of `x`.
    """
    if size is None:
        return x.mean(1)
    weights = size / size.sum(-1, keepdims=True)
    return jnp.einsum("bn,bnd->bd", weights, x.astype(jnp.float32), precision="highest").astype(x.dtype)


class AttentionPool(nn.Module):
    """Attention pooling of SigLIP (Zhai et al., 2023; Lee et al., 2019): a learned query, followed by an MLP.

    Submodules and parameters have timm's names.

    Attributes:
        num_heads: Number of heads.
        mlp_hidden: Width of the MLP.
        act_layer: Name of the activation of the MLP.
        norm_eps: Epsilon of the norm.
        dtype: Computation dtype.
    """

    num_heads: int
    mlp_hidden: int
    act_layer: str
    norm_eps: float
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], key_bias: Float[Array, "B N"] | None, has_mask: bool
    ) -> Float[Array, "B D"]:
        """Pool tokens.

        Args:
            x: `[B, N, D]` normalized patch tokens.
            key_bias: `[B, N]` bias that is added to the scores of each key, such as `log(size)`, or None.
            has_mask: Whether `key_bias` can be -inf.

        Returns:
            `[B, D]` pooled features.
        """
        batch, _, width = x.shape
        latent = self.param("latent", nn.initializers.normal(width**-0.5), (1, 1, width), jnp.float32)
        query = jnp.broadcast_to(latent.astype(self.dtype), (batch, 1, width))
        q = self._heads(dense(width, "q", self.dtype)(query))
        k, v = (self._heads(part) for part in jnp.split(dense(2 * width, "kv", self.dtype)(x), 2, axis=-1))
        values, _ = attention(q, k, v, key_bias=key_bias, has_mask=has_mask)
        pooled = dense(width, "proj", self.dtype)(jnp.transpose(values, (0, 2, 1, 3)).reshape(batch, 1, width))
        mlp = Mlp(self.mlp_hidden, "mlp", self.act_layer, True, False, self.norm_eps, 0.0, self.dtype, name="mlp")
        pooled = pooled + mlp(layer_norm(self.norm_eps, "norm", self.dtype)(pooled), train=False)
        return pooled[:, 0]

    def _heads(self, x: Float[Array, "B T D"]) -> Float[Array, "B H T d"]:
        batch, tokens, width = x.shape
        return jnp.transpose(x.reshape(batch, tokens, self.num_heads, width // self.num_heads), (0, 2, 1, 3))


def attention_pool_macs(patches: int, width: int, mlp_hidden: int) -> int:
    """Return the multiply-adds of `AttentionPool` for one image.

    Args:
        patches: Number of patch tokens.
        width: Width of the tokens.
        mlp_hidden: Width of the MLP.
    """
    keys_and_values, attention_products = 2 * patches * width**2, 2 * patches * width
    return keys_and_values + attention_products + 2 * width**2 + 2 * width * mlp_hidden
