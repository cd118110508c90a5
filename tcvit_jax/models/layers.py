"""The layers of a Vision Transformer, with the numerics of the weights they load: exact GELU, exact variance.

Sub-module and parameter names are timm's, with `blocks_0` for `blocks.0`: they are the checkpoint's contract.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops.activations import ACTIVATIONS
from tcvit_jax.ops.attention import Signals, attention
from tcvit_jax.ops.linear import linear
from tcvit_jax.ops.rows import Rows

# As in the original ViT, and not timm's 0.02, which leaves a narrow model without a signal for its first epochs.
kernel_init = nn.initializers.xavier_uniform()


def dense(features: int, name: str, dtype: str, use_bias: bool = True) -> nn.Dense:
    """A linear layer over the last axis, `[..., in]` to `[..., features]`, with float32 parameters, in `dtype`."""
    return nn.Dense(
        features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, dot_general=_times_kernel, name=name
    )  # fmt: skip


def _times_kernel(
    x: Float[Array, "... in"], kernel: Float[Array, "in out"], *_: object, **__: object
) -> Float[Array, "... out"]:
    """What `flax.linen.Dense` does by `lax.dot_general`, over the last axis of `x`."""
    return linear(x, kernel)


def layer_norm(epsilon: float, name: str | None, dtype: str) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance; Flax's default, E[x^2] - E[x]^2, loses digits that torch keeps."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drops a residual branch for whole images, and scales the others up."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool, rows: Rows | None = None) -> Float[Array, "B T D"]:
        """`x [B, T, D]`, unchanged unless training; `rows` of the global batch, None for all of it."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = Rows.resolve(rows, x.shape[0]).bernoulli(self.make_rng("dropout"), keep)[:, None, None]
        return jnp.where(mask, x / keep, 0)


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014), drawn row by row: the same on however many devices."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B ..."], train: bool, rows: Rows | None = None) -> Float[Array, "B ..."]:
        """`x [B, ...]`, unchanged unless training; `rows` of the global batch, None for all of it."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        keys = Rows.resolve(rows, x.shape[0]).keys(self.make_rng("dropout"))
        mask = jax.vmap(partial(jax.random.bernoulli, p=keep, shape=x.shape[1:]))(keys)
        return jnp.where(mask, x / keep, 0)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (CaiT, DeiT-III)."""

    init_value: float

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """`x [..., D] * gamma [D]`."""
        gamma = self.param("gamma", nn.initializers.constant(self.init_value), (x.shape[-1],))
        return x * gamma.astype(x.dtype)


class Qkv(nn.Module):
    """The joint projection to queries, keys and values, of which queries can be left out where nobody reads them."""

    num_heads: int
    use_bias: bool
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], num_queries: int | None
    ) -> tuple[Float[Array, "B H Q d"], Float[Array, "B H T d"], Float[Array, "B H T d"]]:
        """From `x [B, T, D]` to `q [B, H, num_queries, d]` of the first `num_queries` tokens (None: all), and `k, v [B, H, T, d]`."""
        width = x.shape[-1]
        kernel = self.param("kernel", kernel_init, (width, 3 * width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,)) if self.use_bias else jnp.zeros(3 * width)
        bias, x = bias.astype(self.dtype), x.astype(self.dtype)
        if num_queries is None:
            q, k, v = self._project(x, kernel, bias)
        else:
            (q,) = self._project(x[:, :num_queries], kernel[:, :width], bias[:width])
            k, v = self._project(x, kernel[:, width:], bias[width:])
        return q, k, v

    def _project(
        self, x: Float[Array, "B T D"], kernel: Float[Array, "D out"], bias: Float[Array, " out"]
    ) -> Float[Array, "parts B H T d"]:
        """`[parts, B, H, T, d]`."""
        batch, tokens, width = x.shape
        y = linear(x, kernel) + bias
        return jnp.transpose(y.reshape(batch, tokens, -1, self.num_heads, width // self.num_heads), (2, 0, 3, 1, 4))


class Attention(nn.Module):
    """Multi-head self-attention that returns the signals its caller asks for."""

    num_heads: int
    qkv_bias: bool
    qk_norm: bool
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
        train: bool,
        rows: Rows | None = None,
    ) -> tuple[Float[Array, "B Q D"], Signals]:
        """From `x [B, T, D]` and `key_bias [B, T]` to the attended `[B, T, D]` and its signals.

        `class_tokens`, `keep_fraction` and `has_mask` are those of `ops.attention.attention`; with `num_queries`, only the first `num_queries`
        tokens are returned, and what only the others need is not computed. `rows` are those of the global batch.
        """
        batch, _, width = x.shape
        # Sparsification compares the rows of all queries.
        queries = None if signals or keep_fraction < 1 else num_queries
        q, k, v = Qkv(self.num_heads, self.qkv_bias, self.dtype, name="qkv")(x, queries)
        if self.qk_norm:
            q = layer_norm(self.norm_eps, "q_norm", self.dtype)(q)
            k = layer_norm(self.norm_eps, "k_norm", self.dtype)(k)
        values, found = attention(
            q, k, v, key_bias=key_bias, signals=signals, class_tokens=class_tokens, keep_fraction=keep_fraction, num_queries=num_queries, has_mask=has_mask
        )  # fmt: skip
        values = jnp.transpose(values, (0, 2, 1, 3)).reshape(batch, -1, width)
        out = dense(width, "proj", self.dtype)(values)
        return Dropout(self.drop_rate)(out, train, rows), found


class Mlp(nn.Module):
    """Two linear layers around an activation."""

    hidden_features: int
    act_layer: str
    drop_rate: float
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], train: bool, rows: Rows | None = None) -> Float[Array, "B T D"]:
        """`[B, T, D]` to `[B, T, D]`."""
        width = x.shape[-1]
        x = ACTIVATIONS[self.act_layer](dense(self.hidden_features, "fc1", self.dtype)(x))
        x = Dropout(self.drop_rate)(x, train, rows)
        x = dense(width, "fc2", self.dtype)(x)
        return Dropout(self.drop_rate)(x, train, rows)
