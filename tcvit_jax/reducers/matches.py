"""Matches that several methods share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from tcvit_jax.ops import matching
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.parts import Match
from tcvit_jax.tokens import Tokens


def _cosine_of_keys(
    tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
) -> Float[Array, "B R K"]:
    keys = matching.patch_keys(tokens, signals)
    return matching.cosine(take_rows(keys, removed), take_rows(keys, kept))


def _cosine_of_features(
    tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
) -> Float[Array, "B R K"]:
    x = jax.lax.stop_gradient(tokens.patches).astype(jnp.float32)
    return matching.cosine(take_rows(x, removed), take_rows(x, kept))


def _inverse_distance(
    tokens: Tokens, signals: Signals, kept: Int[Array, "B K"], removed: Int[Array, "B R"]
) -> Float[Array, "B R K"]:
    x = jax.lax.stop_gradient(tokens.patches).astype(jnp.float32)
    return 1 / (1 + matching.distance(take_rows(x, removed), take_rows(x, kept)))


# The cosine of keys averaged over heads (ToMe), the cosine of features (TPS, DiffRate), and `1 / (1 + d)` with the
# Euclidean distance `d` of features (clustering methods).
KEYS = Match(
    _cosine_of_keys, ("keys",), macs=lambda context: context.removed * context.keep * (context.width // context.heads)
)
FEATURES = Match(_cosine_of_features, macs=lambda context: context.removed * context.keep * context.width)
NEAREST = Match(_inverse_distance, macs=lambda context: context.removed * context.keep * context.width)
