"""The layers of a Vision Transformer, with the numerics of the weights they load: exact GELU, exact variance.

Sub-module and parameter names are timm's, with `blocks_0` for `blocks.0`: they are the checkpoint's contract.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tcvit_jax.ops import plans
from tcvit_jax.ops.activations import ACTIVATIONS
from tcvit_jax.ops.attention import Signals, attention
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens

# As in the original ViT, and not timm's 0.02, which leaves a narrow model without a signal for its first epochs.
kernel_init = nn.initializers.xavier_uniform()


def linear(x: Array, features: int, name: str, dtype: str, use_bias: bool = True) -> Array:
    """A linear layer over the last axis, `[..., in]` to `[..., features]`, with float32 parameters, in `dtype`.

    Batch and tokens are one axis inside: XLA's weight gradient over two is several times slower on a CPU.
    """
    layer = nn.Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, name=name)
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def layer_norm(epsilon: float, name: str | None, dtype: str) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance; Flax's default, E[x^2] - E[x]^2, loses digits that torch keeps."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, dtype=dtype, name=name)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drops a residual branch for whole images, and scales the others up."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`x [B, T, D]`, unchanged unless training."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = jax.random.bernoulli(self.make_rng("dropout"), keep, (x.shape[0], 1, 1))
        return jnp.where(mask, x / keep, 0)


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (CaiT, DeiT-III)."""

    init_value: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`x [..., D] * gamma [D]`."""
        gamma = self.param("gamma", nn.initializers.constant(self.init_value), (x.shape[-1],))
        return x * gamma.astype(x.dtype)


class Qkv(nn.Module):
    """The joint projection to queries, keys and values, of which queries can be left out where nobody reads them."""

    num_heads: int
    use_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, read: int | None) -> tuple[Array, Array, Array]:
        """From `x [B, T, D]` to `q [B, H, read, d]` of the first `read` tokens (None: all), and `k, v [B, H, T, d]`."""
        width = x.shape[-1]
        kernel = self.param("kernel", kernel_init, (width, 3 * width)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,)) if self.use_bias else jnp.zeros(3 * width)
        bias, x = bias.astype(self.dtype), x.astype(self.dtype)
        if read is None:
            q, k, v = self._project(x, kernel, bias)
        else:
            (q,) = self._project(x[:, :read], kernel[:, :width], bias[:width])
            k, v = self._project(x, kernel[:, width:], bias[width:])
        return q, k, v

    def _project(self, x: Array, kernel: Array, bias: Array) -> Array:
        """`[parts, B, H, T, d]`; batch and tokens are one axis inside, as in `linear`."""
        batch, tokens, width = x.shape
        y = x.reshape(-1, width) @ kernel + bias
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
        x: Array,
        key_bias: Array | None,
        signals: tuple[str, ...],
        class_tokens: int,
        keep: float,
        read: int | None,
        train: bool,
    ) -> tuple[Array, Signals]:
        """From `x [B, T, D]` and `key_bias [B, T]` to the attended `[B, T, D]` and its signals.

        `class_tokens` and `keep` are those of `ops.attention.attention`; with `read`, only the first `read` rows are
        returned, and what only the others need is not computed.
        """
        batch, _, width = x.shape
        # Sparsification compares the rows of all queries.
        queries = None if signals or keep < 1 else read
        q, k, v = Qkv(self.num_heads, self.qkv_bias, self.dtype, name="qkv")(x, queries)
        if self.qk_norm:
            q = layer_norm(self.norm_eps, "q_norm", self.dtype)(q)
            k = layer_norm(self.norm_eps, "k_norm", self.dtype)(k)
        values, found = attention(
            q, k, v, key_bias=key_bias, signals=signals, class_tokens=class_tokens, keep=keep, read=read
        )
        values = jnp.transpose(values, (0, 2, 1, 3)).reshape(batch, -1, width)
        out = linear(values, width, "proj", self.dtype)
        return nn.Dropout(self.drop_rate)(out, deterministic=not train), found


class Mlp(nn.Module):
    """Two linear layers around an activation."""

    hidden: int
    act_layer: str
    drop_rate: float
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[B, T, D]` to `[B, T, D]`."""
        width = x.shape[-1]
        x = ACTIVATIONS[self.act_layer](linear(x, self.hidden, "fc1", self.dtype))
        x = nn.Dropout(self.drop_rate)(x, deterministic=not train)
        x = linear(x, width, "fc2", self.dtype)
        return nn.Dropout(self.drop_rate)(x, deterministic=not train)


class Block(nn.Module):
    """Attention, token reduction, MLP: `Tokens` in, fewer `Tokens` out."""

    num_heads: int
    mlp_hidden: int
    qkv_bias: bool
    qk_norm: bool
    init_values: float | None
    skip_lam: float
    norm_eps: float
    act_layer: str
    drop_rate: float
    drop_path_rate: float
    reducer: Reducer | None
    dtype: str

    def _branch(self, x: Array, index: int, train: bool) -> Array:
        """What a residual branch goes through before it is added."""
        if self.init_values:
            x = LayerScale(self.init_values, name=f"ls{index}")(x)
        return DropPath(self.drop_path_rate, name=f"drop_path{index}")(x, train) / self.skip_lam

    @nn.compact
    def __call__(
        self, tokens: Tokens, remove: int, weighted: bool, keep: float, read: int | None, train: bool
    ) -> Tokens:
        """One block.

        Args:
            tokens: in.
            remove: static, how many patch tokens leave between attention and MLP; 0 asks for no signal and no plan.
            weighted: static, whether any token may stand for several, so that keys are biased by `log(size)`.
            keep: static, the part of the attention map's entries to keep.
            read: static, how many of the first tokens anybody reads after this block; None for all. The others are
                neither computed nor returned.
            train: whether dropout and drop-path are on.
        """
        reducer = self.reducer if remove and read is None else None
        signals = reducer.signals if reducer else ()
        key_bias = size_bias(tokens) if weighted else None
        attend = Attention(
            self.num_heads, self.qkv_bias, self.qk_norm, self.norm_eps, self.drop_rate, self.dtype, name="attn"
        )
        y = layer_norm(self.norm_eps, "norm1", self.dtype)(tokens.x)
        y, found = attend(y, key_bias, signals, tokens.class_tokens, keep, read, train)
        tokens = tokens.with_x(tokens.x[:, :read] + self._branch(y, 1, train))
        if reducer:
            plan = reducer.plan(tokens, found, tokens.origin.shape[1] - remove)
            # For who asks with `mutable=["intermediates"]` (`measure.diagnosis`); nothing otherwise.
            self.sow("intermediates", "reduction", (tokens, found, plan))
            tokens = plans.apply(plan, tokens)
        y = layer_norm(self.norm_eps, "norm2", self.dtype)(tokens.x)
        y = Mlp(self.mlp_hidden, self.act_layer, self.drop_rate, self.dtype, name="mlp")(y, train)
        return tokens.with_x(tokens.x + self._branch(y, 2, train))


def size_bias(tokens: Tokens) -> Array:
    """`log(size)` of every key `[B, T]`; a prefix token stands for itself alone."""
    return jnp.pad(jnp.log(tokens.size), ((0, 0), (tokens.prefix, 0)))
