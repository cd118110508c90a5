"""ATS: adaptive token sampling (Fayyaz et al., ECCV 2022, arXiv 2111.15667).

A patch token's significance is the class token's attention to it (summed over heads) times the length of its value,
scale_features to sum to one. Ascending, they make a cumulative distribution; `K` points `(2 i - 1) / (2 K)` each pick the token
whose value of it is nearest. Several points may pick the same one, so that the number of tokens differs from image to
image; the others are dropped.

Static form: `K` rows, of which those that were not picked are masked: they only fill the width, of size 0, and nobody
attends to them. So a block costs what `K` tokens cost, whatever the image. Written from the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.parts import Fusion, FusionInputs, Parts, Score
from tcvit_jax.tokens import Plan, Tokens


def significance(tokens: Tokens, signals: Signals) -> Float[Array, "B N"]:
    """Of each patch token, `[B, N]`, rows summing to one; alike for all where nothing is attended to."""
    assert signals.class_row is not None and signals.value_norm is not None
    length = jnp.sqrt((jax.lax.stop_gradient(signals.value_norm) ** 2).sum(1))
    weight = (jax.lax.stop_gradient(signals.class_row).sum(1) * length)[:, tokens.prefix :]
    weight = jnp.where(tokens.size > 0, weight, 0)
    total = weight.sum(-1, keepdims=True)
    some = jnp.where(tokens.size > 0, 1.0, 0.0)
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), some / some.sum(-1, keepdims=True))


def sample(tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
    """1 for a token that a point picked, 0 for the others, `[B, N]`."""
    share = significance(tokens, signals)
    order = jnp.argsort(share, axis=-1, stable=True)
    reached = jnp.cumsum(take_rows(share, order), axis=-1)
    # What fills a width from an earlier block is not to be picked again.
    reached = jnp.where(take_rows(tokens.size, order) > 0, reached, jnp.inf)
    points = (2 * jnp.arange(keep) + 1) / (2 * keep)
    picked = jnp.abs(reached[:, None, :] - points[:, None]).argmin(-1)
    return (take_rows(order, picked)[:, :, None] == jnp.arange(share.shape[1])).any(1).astype(jnp.float32)


def mask(inputs: FusionInputs) -> Plan:
    """Drop what leaves, and mask of what stays all that has no score."""
    return plans.mask(inputs.kept, inputs.removed, take_rows(inputs.score, inputs.kept) > 0)


@dataclass(frozen=True, repr=False)
class ATS(Reducer):
    """Sample tokens by their significance; fewer where an image has few significant ones.

    Attributes:
        proportional_attention, attention_keep: see `Reducer`; sizes stay 1, and 0 for a masked token.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """Sampled significance, and a mask."""
        score = Score(sample, ("class_row", "value_norm"), needs_class_token=True)
        return Parts(score, None, Fusion(mask, "drop", needs_match=False, has_padding=True))
