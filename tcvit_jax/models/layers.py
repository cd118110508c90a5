"""Layers of a Vision Transformer, with the numerics of timm: exact GELU and two-pass variance.

Submodules and parameters have timm's names, with `blocks_0` for `blocks.0`. Checkpoints depend on these names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops.activations import ACTIVATIONS
from tcvit_jax.ops.attention import Signals, attention
from tcvit_jax.ops.linear import linear
from tcvit_jax.ops.rotary import Rotation, rotate_patches
from tcvit_jax.ops.rows import Rows

# As in the original ViT. With timm's standard deviation of 0.02, narrow models learn nothing in their first epochs.
kernel_init = nn.initializers.xavier_uniform()


def dense(features: int, name: str, dtype: str, use_bias: bool = True) -> nn.Dense:
    """Return a linear layer over the last axis, `[..., in]` to `[..., features]`.

    Args:
        features: Number of output features.
        name: Name of the submodule.
        dtype: Computation dtype. Parameters are float32.
        use_bias: Whether the layer has a bias.
    """
    return nn.Dense(
        features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, dot_general=_matmul, name=name
    )  # fmt: skip


def _matmul(
    x: Float[Array, "... in"], kernel: Float[Array, "in out"], *_: object, **__: object
) -> Float[Array, "... out"]:
    """Multiply the last axis of `x` with a kernel, in place of `lax.dot_general` in `flax.linen.Dense`."""
    return linear(x, kernel)


class LayerNorm(nn.LayerNorm):
    """Flax's LayerNorm in float32, between explicit conversions.

    Flax's own conversions of a lower precision are implicit, which strict dtype promotion forbids.

    Attributes:
        out_dtype: Dtype of the result.
    """

    out_dtype: str = "float32"

    def __call__(self, x: Float[Array, "... D"], **options: Any) -> Float[Array, "... D"]:
        """Normalize the last axis of `x [..., D]`."""
        return super().__call__(x.astype(jnp.float32), **options).astype(self.out_dtype)


def layer_norm(epsilon: float, name: str | None, dtype: str) -> nn.LayerNorm:
    """Return a LayerNorm with two-pass variance, as in torch.

    Flax's default variance, E[x^2] - E[x]^2, is less precise.
    """
    return LayerNorm(epsilon=epsilon, use_fast_variance=False, out_dtype=dtype, name=name)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drop a residual branch per image and rescale it for the other images.

    Attributes:
        rate: Probability that the branch is dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool, rows: Rows | None = None) -> Float[Array, "B T D"]:
        """Apply drop path to `x [B, T, D]` in training; otherwise return `x`.

        Args:
            x: `[B, T, D]` output of the branch.
            train: Whether to drop.
            rows: Rows of the global batch, None if `x` holds the full batch.
        """
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = Rows.resolve(rows, x.shape[0]).bernoulli(self.make_rng("dropout"), keep)[:, None, None]
        return jnp.where(mask, x / keep, 0)


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014) whose mask does not depend on the number of devices.

    Each row of the global batch has its own random key.

    Attributes:
        rate: Probability that a value is dropped.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B ..."], train: bool, rows: Rows | None = None) -> Float[Array, "B ..."]:
        """Apply dropout to `x [B, ...]` in training; otherwise return `x`.

        Args:
            x: `[B, ...]` features.
            train: Whether to drop.
            rows: Rows of the global batch, None if `x` holds the full batch.
        """
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        keys = Rows.resolve(rows, x.shape[0]).keys(self.make_rng("dropout"))
        mask = jax.vmap(partial(jax.random.bernoulli, p=np.float32(keep), shape=x.shape[1:]))(keys)
        return jnp.where(mask, x / keep, 0)


class LayerScale(nn.Module):
    """LayerScale: a learned factor per channel on a residual branch (CaiT, DeiT-III).

    Attributes:
        init_value: Initial value of all factors.
    """

    init_value: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Return `x [..., D] * gamma [D]`."""
        gamma = self.param("gamma", nn.initializers.constant(self.init_value), (x.shape[-1],), jnp.float32)
        return x * jnp.broadcast_to(gamma.astype(x.dtype), x.shape)


class Qkv(nn.Module):
    """Joint projection to queries, keys and values. Unneeded queries can be skipped.

    Without `key_bias`, queries and values have biases of their own, as in EVA-02 and DINOv3.
    """

    num_heads: int
    use_bias: bool
    key_bias: bool
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], num_queries: int | None
    ) -> tuple[Float[Array, "B H Q d"], Float[Array, "B H T d"], Float[Array, "B H T d"]]:
        """Project tokens to queries, keys and values.

        Args:
            x: `[B, T, D]` tokens.
            num_queries: Number of leading tokens to compute queries for; None for all.

        Returns:
            Queries `[B, H, num_queries, d]`, keys `[B, H, T, d]` and values `[B, H, T, d]`.
        """
        width = x.shape[-1]
        kernel = self.param("kernel", kernel_init, (width, 3 * width), jnp.float32).astype(self.dtype)
        bias, x = self._bias(width).astype(self.dtype), x.astype(self.dtype)
        if num_queries is None:
            q, k, v = self._project(x, kernel, bias)
        else:
            (q,) = self._project(x[:, :num_queries], kernel[:, :width], bias[:width])
            k, v = self._project(x, kernel[:, width:], bias[width:])
        return q, k, v

    def _bias(self, width: int) -> Float[Array, " out"]:
        """Return the bias of queries, keys and values, with zeros for those that have none."""
        zeros = jnp.zeros(width, jnp.float32)
        if not self.use_bias:
            return jnp.concatenate([zeros, zeros, zeros])
        if self.key_bias:
            return self.param("bias", nn.initializers.zeros, (3 * width,), jnp.float32)
        q_bias, v_bias = (
            self.param(name, nn.initializers.zeros, (width,), jnp.float32) for name in ("q_bias", "v_bias")
        )
        return jnp.concatenate([q_bias, zeros, v_bias])

    def _project(
        self, x: Float[Array, "B T D"], kernel: Float[Array, "D out"], bias: Float[Array, " out"]
    ) -> Float[Array, "parts B H T d"]:
        """Apply a linear layer and return its heads, `[parts, B, H, T, d]`."""
        batch, tokens, width = x.shape
        y = linear(x, kernel) + bias[None, None]
        return jnp.transpose(
            y.reshape(batch, tokens, y.shape[-1] // width, self.num_heads, width // self.num_heads), (2, 0, 3, 1, 4)
        )


class Attention(nn.Module):
    """Multi-head self-attention that also returns the requested signals."""

    num_heads: int
    qkv_bias: bool
    key_bias: bool
    proj_bias: bool
    qk_norm: bool
    scale_attn_inner: bool
    norm_eps: float
    drop_rate: float
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        key_bias: Float[Array, "B T"] | None,
        signals: tuple[str, ...],
        class_tokens: int,
        keep_fraction: float,
        num_queries: int | None,
        has_mask: bool,
        rotation: Rotation | None,
        train: bool,
        rows: Rows | None = None,
    ) -> tuple[Float[Array, "B Q D"], Signals]:
        """Apply self-attention.

        Args:
            x: `[B, T, D]` normalized tokens.
            key_bias: `[B, T]` bias that is added to the scores of each key, or None.
            signals: Names of the signals to return, from `ops.attention.SIGNALS`.
            class_tokens: Number of leading class tokens, as in `ops.attention.attention`.
            keep_fraction: Fraction of the attention map to keep, as in `ops.attention.attention`.
            num_queries: Number of leading tokens to compute outputs for; None for all.
            has_mask: Whether `key_bias` can be -inf, as in `ops.attention.attention`.
            rotation: Rotation of the queries and keys of the patch tokens by their positions, or None.
            train: Whether dropout is on.
            rows: Rows of the global batch, None if `x` holds the full batch.

        Returns:
            Output `[B, T, D]`, or `[B, num_queries, D]`, and the signals.
        """
        batch, _, width = x.shape
        # Signals and sparsification need the rows of all queries.
        queries = None if signals or keep_fraction < 1 else num_queries
        q, k, v = Qkv(self.num_heads, self.qkv_bias, self.key_bias, self.dtype, name="qkv")(x, queries)
        if self.qk_norm:
            q = layer_norm(self.norm_eps, "q_norm", self.dtype)(q)
            k = layer_norm(self.norm_eps, "k_norm", self.dtype)(k)
        # Reducers compare keys by content, as for models without rotary positions.
        content_keys = k
        if rotation is not None:
            # If only prefix tokens are computed, no query has a position.
            q = q if q.shape[2] < k.shape[2] else rotate_patches(q, rotation)
            k = rotate_patches(k, rotation)
        values, attention_signals = attention(
            q,
            k,
            v,
            key_bias=key_bias,
            signals=signals,
            class_tokens=class_tokens,
            keep_fraction=keep_fraction,
            num_queries=num_queries,
            has_mask=has_mask,
            content_keys=content_keys,
        )
        values = jnp.transpose(values, (0, 2, 1, 3)).reshape(batch, values.shape[2], width)
        if self.scale_attn_inner:
            values = layer_norm(self.norm_eps, "norm", self.dtype)(values)
        out = dense(width, "proj", self.dtype, self.proj_bias)(values)
        return Dropout(self.drop_rate)(out, train, rows), attention_signals


# MLPs of one linear layer before the activation, and gated ones of two. The gated ones differ in timm's tensor names.
MLP_LAYERS = ("mlp", "swiglu", "swiglu_packed")


class Mlp(nn.Module):
    """MLP: `fc2(act(fc1(x)))`, or gated `fc2(act(gate(x)) * value(x))`, where `fc1` is the gate followed by the value.

    Attributes:
        hidden_features: Width of the input of `fc2`.
        mlp_layer: One of `MLP_LAYERS`. The gated ones are SwiGLU (Shazeer, 2020) if `act_layer` is `"silu"`.
        act_layer: Name of the activation.
        use_bias: Whether the linear layers have biases.
        scale_mlp: Whether a norm precedes `fc2`.
        norm_eps: Epsilon of this norm.
        drop_rate: Dropout rate after the activation and after `fc2`.
        dtype: Computation dtype.
    """

    hidden_features: int
    mlp_layer: str
    act_layer: str
    use_bias: bool
    scale_mlp: bool
    norm_eps: float
    drop_rate: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool, rows: Rows | None = None) -> Float[Array, "B T D"]:
        """Apply the MLP to `x [B, T, D]`.

        Args:
            x: `[B, T, D]` normalized tokens.
            train: Whether dropout is on.
            rows: Rows of the global batch, None if `x` holds the full batch.
        """
        width, activation = x.shape[-1], ACTIVATIONS[self.act_layer]
        if self.mlp_layer == "mlp":
            x = activation(dense(self.hidden_features, "fc1", self.dtype, self.use_bias)(x))
        else:
            x = dense(2 * self.hidden_features, "fc1", self.dtype, self.use_bias)(x)
            gate, value = jnp.split(x, 2, axis=-1)
            x = activation(gate) * value
        x = Dropout(self.drop_rate)(x, train, rows)
        if self.scale_mlp:
            x = layer_norm(self.norm_eps, "norm", self.dtype)(x)
        x = dense(width, "fc2", self.dtype, self.use_bias)(x)
        return Dropout(self.drop_rate)(x, train, rows)


def mlp_width(embed_dim: int, mlp_ratio: float, mlp_hidden: int) -> int:
    """Return the width of the input of `fc2`: `mlp_hidden`, or if that is 0 `embed_dim * mlp_ratio`, rounded down."""
    return mlp_hidden or int(embed_dim * mlp_ratio)
