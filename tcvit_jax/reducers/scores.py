"""Scores that several methods share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers.parts import Score
from tcvit_jax.tokens import Tokens


def class_attention(tokens: Tokens, signals: Signals, keep: int = 0) -> Float[Array, "B N"]:
    """Return the attention of the class token to each patch token, `[B, N]`, averaged over heads."""
    assert signals.class_row is not None
    return signals.class_row.mean(1)[:, tokens.prefix :]


def received_attention(tokens: Tokens, signals: Signals, keep: int = 0) -> Float[Array, "B N"]:
    """Return the attention that each patch token receives from all tokens, `[B, N]`.

    The column sums of the attention map are averaged over heads.
    """
    assert signals.received is not None
    return signals.received.mean(1)[:, tokens.prefix :]


def random_order(tokens: Tokens, seed: int) -> Float[Array, "B N"]:
    """Return a random score `[B, N]`.

    The order depends only on the seed and the number of patch tokens. It is the same for all images, so that the result
    for an image does not depend on its batch.

    Args:
        tokens: The tokens to rank.
        seed: Seed of the random generator.
    """
    batch, patches = tokens.origin.shape
    key = jax.random.fold_in(jax.random.key(seed), patches)
    return jnp.broadcast_to(jax.random.normal(key, (patches,), jnp.float32), (batch, patches))


CLASS_ATTENTION = Score(class_attention, ("class_row",), needs_class_token=True)
ATTENTION_RECEIVED = Score(received_attention, ("received",))
