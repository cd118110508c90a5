"""The layers of a Vision Transformer, with the numerics of the weights they load: exact GELU, exact variance.

Sub-module and parameter names are timm's, with `blocks_0` for `blocks.0`: they are the checkpoint's contract.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tcvit_jax.ops import rows
from tcvit_jax.ops.activations import ACTIVATIONS
from tcvit_jax.ops.attention import Signals, attention
from tcvit_jax.ops.linear import linear
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.tokens import Tokens

# As in the original ViT, and not timm's 0.02, which leaves a narrow model without a signal for its first epochs.
kernel_init = nn.initializers.xavier_uniform()


def dense(features: int, name: str, dtype: str, use_bias: bool = True) -> nn.Dense:
    """A linear layer over the last axis, `[..., in]` to `[..., features]`, with float32 parameters, in `dtype`."""
    return nn.Dense(
        features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, dot_general=_times_kernel, name=name
    )  # fmt: skip


def _times_kernel(x: Array, kernel: Array, *_: object, **__: object) -> Array:
    """What `flax.linen.Dense` does by `lax.dot_general`, over the last axis of `x`."""
    return linear(x, kernel)


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
        mask = rows.bernoulli(self.make_rng("dropout"), keep, x.shape[0])[:, None, None]
        return jnp.where(mask, x / keep, 0)


class Dropout(nn.Module):
    """Dropout (Srivastava et al., 2014), drawn row by row: the same on however many devices."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`x [B, ...]`, unchanged unless training."""
        if not train or self.rate == 0:
            return x
        keep = 1 - self.rate
        keys = rows.keys(self.make_rng("dropout"), x.shape[0])
        mask = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
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
        x: Array,
        key_bias: Array | None,
        signals: tuple[str, ...],
        class_tokens: int,
        keep: float,
        read: int | None,
        masked: bool,
        train: bool,
    ) -> tuple[Array, Signals]:
        """From `x [B, T, D]` and `key_bias [B, T]` to the attended `[B, T, D]` and its signals.

        `class_tokens`, `keep` and `masked` are those of `ops.attention.attention`; with `read`, only the first `read`
        rows are returned, and what only the others need is not computed.
        """
        batch, _, width = x.shape
        # Sparsification compares the rows of all queries.
        queries = None if signals or keep < 1 else read
        q, k, v = Qkv(self.num_heads, self.qkv_bias, self.dtype, name="qkv")(x, queries)
        if self.qk_norm:
            q = layer_norm(self.norm_eps, "q_norm", self.dtype)(q)
            k = layer_norm(self.norm_eps, "k_norm", self.dtype)(k)
        values, found = attention(
            q, k, v, key_bias=key_bias, signals=signals, class_tokens=class_tokens, keep=keep, read=read, masked=masked
        )  # fmt: skip
        values = jnp.transpose(values, (0, 2, 1, 3)).reshape(batch, -1, width)
        out = dense(width, "proj", self.dtype)(values)
        return Dropout(self.drop_rate)(out, train), found


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
        x = ACTIVATIONS[self.act_layer](dense(self.hidden, "fc1", self.dtype)(x))
        x = Dropout(self.drop_rate)(x, train)
        x = dense(width, "fc2", self.dtype)(x)
        return Dropout(self.drop_rate)(x, train)


@dataclass(frozen=True)
class Step:
    """What one block does, all static.

    Attributes:
        remove: how many patch tokens leave between attention and MLP; 0 asks for no signal and no plan.
        weighted: whether any token may stand for several, so that keys are biased by `log(size)`.
        masked: whether any token may only fill the width, so that nobody attends to it.
        keep: the part of the attention map's entries to keep.
        read: how many of the first tokens anybody reads after this block; None for all. The others are neither
            computed nor returned.
    """

    remove: int = 0
    weighted: bool = False
    masked: bool = False
    keep: float = 1.0
    read: int | None = None

    @property
    def reduces(self) -> bool:
        """Whether there is a plan: not where nobody reads what it would leave."""
        return self.remove > 0 and self.read is None


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

    def setup(self) -> None:
        """The two residual branches."""
        self.norm1 = layer_norm(self.norm_eps, None, self.dtype)
        self.attn = Attention(
            self.num_heads, self.qkv_bias, self.qk_norm, self.norm_eps, self.drop_rate, self.dtype
        )  # fmt: skip
        self.norm2 = layer_norm(self.norm_eps, None, self.dtype)
        self.mlp = Mlp(self.mlp_hidden, self.act_layer, self.drop_rate, self.dtype)
        if self.init_values:
            self.ls1, self.ls2 = LayerScale(self.init_values), LayerScale(self.init_values)
        self.drop_path1, self.drop_path2 = DropPath(self.drop_path_rate), DropPath(self.drop_path_rate)

    def __call__(self, tokens: Tokens, step: Step, train: bool) -> Tokens:
        """One block."""
        tokens, signals = self.attend(tokens, step, train)
        if self.reducer and step.reduces:
            before = tokens
            tokens, plan = self.reducer.reduce(before, signals, before.origin.shape[1] - step.remove)
            # For who asks with `mutable=["intermediates"]` (`measure.diagnosis`); nothing otherwise.
            self.sow("intermediates", "reduction", (before, signals, plan))
        return self.feed(tokens, train)

    def attend(self, tokens: Tokens, step: Step, train: bool) -> tuple[Tokens, Signals]:
        """The attention branch, and the signals that the reducer reads of it."""
        signals = self.reducer.signals if self.reducer and step.reduces else ()
        key_bias = size_bias(tokens, step.weighted, step.masked) if step.weighted or step.masked else None
        y, found = self.attn(
            self.norm1(tokens.x), key_bias, signals, tokens.class_tokens, step.keep, step.read, step.masked, train
        )
        y = self.ls1(y) if self.init_values else y
        return tokens.with_x(tokens.x[:, : step.read] + self.drop_path1(y, train) / self.skip_lam), found

    def feed(self, tokens: Tokens, train: bool) -> Tokens:
        """The MLP branch; the block ends here."""
        y = self.mlp(self.norm2(tokens.x), train)
        y = self.ls2(y) if self.init_values else y
        return replace(tokens, x=tokens.x + self.drop_path2(y, train) / self.skip_lam, block=tokens.block + 1)


def size_bias(tokens: Tokens, weighted: bool, masked: bool) -> Array:
    """What is added to every score of a key, `[B, T]`: `log(size)` where sizes count, -inf where it only fills.

    A prefix token stands for itself alone.
    """
    bias = jnp.log(jnp.where(tokens.size > 0, tokens.size, 1)) if weighted else jnp.zeros_like(tokens.size)
    if masked:
        bias = jnp.where(tokens.size > 0, bias, -jnp.inf)
    return jnp.pad(bias, ((0, 0), (tokens.prefix, 0)))
