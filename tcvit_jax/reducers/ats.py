"""ATS: adaptive token sampling (Fayyaz et al., ECCV 2022, arXiv 2111.15667).

The significance of a patch token is the attention of the class token to it (summed over heads) times the norm of its
value, scaled to sum to one. The cumulative sum of the significance scores in ascending order is sampled at `K` points
`(2 i - 1) / (2 K)`: each point selects the token with the nearest cumulative value. Several points may select the same
token, so that the number of kept tokens differs between images. All other tokens are dropped.

For static shapes, `K` rows are always kept. Rows that were not sampled are padding: their size is 0 and attention masks
them. The cost of a block is therefore that of `K` tokens for every image. Written from the formulas.
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
from tcvit_jax.ops.gather import one_hot_rows, take_rows
from tcvit_jax.reducers.base import Reducer
from tcvit_jax.reducers.parts import Fusion, FusionInputs, Parts, Score
from tcvit_jax.tokens import Plan, Tokens


def significance(tokens: Tokens, signals: Signals) -> Float[Array, "B N"]:
    """Return the significance of each patch token, `[B, N]`.

    Each row sums to one. It is uniform if the class token attends to no patch token, and 0 for padding.
    """
    assert signals.class_row is not None and signals.value_norm is not None
    norm = jnp.sqrt((jax.lax.stop_gradient(signals.value_norm) ** 2).sum(1))
    weight = (jax.lax.stop_gradient(signals.class_row).sum(1) * norm)[:, tokens.prefix :]
    weight = jnp.where(tokens.size > 0, weight, 0)
    total = weight.sum(-1, keepdims=True)
    is_token = (tokens.size > 0).astype(jnp.float32)
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), is_token / is_token.sum(-1, keepdims=True))


def sample(tokens: Tokens, signals: Signals, keep: int) -> Float[Array, "B N"]:
    """Return 1 for sampled tokens and 0 for the others, `[B, N]`."""
    share = significance(tokens, signals)
    order = jnp.argsort(share, axis=-1, stable=True).astype(jnp.int32)
    cumulative = jnp.cumsum(take_rows(share, order), axis=-1)
    # Padding from an earlier block must not be sampled.
    cumulative = jnp.where(take_rows(tokens.size, order) > 0, cumulative, jnp.inf)
    points = (2 * jnp.arange(keep, dtype=jnp.float32) + 1) / (2 * keep)
    nearest = jnp.abs(cumulative[:, None, :] - points[None, :, None]).argmin(-1).astype(jnp.int32)
    return one_hot_rows(take_rows(order, nearest), share.shape[1], bool).any(1).astype(jnp.float32)


def mask(inputs: FusionInputs) -> Plan:
    """Return the plan that drops removed tokens and turns kept tokens that were not sampled into padding."""
    return plans.mask(inputs.kept, inputs.removed, take_rows(inputs.score, inputs.kept) > 0)


@dataclass(frozen=True, repr=False)
class ATS(Reducer):
    """Pruning by sampling of significance scores, which keeps fewer tokens in images with few significant tokens.

    Attributes:
        proportional_attention: See `Reducer`. Sizes stay 1; padding has size 0.
        attention_keep: See `Reducer`.
    """

    DEFAULT_SCHEDULE: ClassVar[str] = "stages"

    proportional_attention: bool = False

    @property
    def parts(self) -> Parts:
        """Sampled significance, no match, and a mask for padding."""
        score = Score(sample, ("class_row", "value_norm"), needs_class_token=True)
        return Parts(score, None, Fusion(mask, "drop", needs_match=False, has_padding=True))
