"""Which tokens stay: the scores that several methods share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers.parts import Score
from tcvit_jax.tokens import Tokens


def class_attention(tokens: Tokens, signals: Signals, keep: int = 0) -> Float[Array, "B N"]:
    """How much the class token attends to each patch token, the mean over heads, `[B, N]`."""
    assert signals.class_row is not None
    return signals.class_row.mean(1)[:, tokens.prefix :]


def received(tokens: Tokens, signals: Signals, keep: int = 0) -> Float[Array, "B N"]:
    """How much all tokens attend to each patch token, the mean over heads of the column sums, `[B, N]`."""
    assert signals.received is not None
    return signals.received.mean(1)[:, tokens.prefix :]


def random_order(tokens: Tokens, seed: int) -> Float[Array, "B N"]:
    """A random score `[B, N]`: one order for each number of tokens, the same for every image of any batch."""
    batch, patches = tokens.origin.shape
    key = jax.random.fold_in(jax.random.key(seed), patches)
    return jnp.broadcast_to(jax.random.normal(key, (patches,)), (batch, patches))


CLASS_ATTENTION = Score(class_attention, ("class_row",), needs_class_token=True)
ATTENTION_RECEIVED = Score(received, ("received",))
