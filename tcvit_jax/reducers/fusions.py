"""Fusions that several methods share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops import plans
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import largest_mask
from tcvit_jax.reducers.parts import BlockContext, Fusion, FusionInputs
from tcvit_jax.tokens import Plan


def size_macs(context: BlockContext) -> int:
    """Return the multiply-adds of passing the sizes of removed tokens to kept ones."""
    return context.keep * context.removed


def add_macs(context: BlockContext) -> int:
    """Return the multiply-adds of adding features and sizes of removed tokens to kept ones."""
    return size_macs(context) * (context.width + 1)


def average_macs(context: BlockContext) -> int:
    """Return the multiply-adds of `add_macs` and of scaling every kept token."""
    return add_macs(context) + context.keep * context.width


def pool_macs(context: BlockContext) -> int:
    """Return the multiply-adds of one extra token; the product has a row for every survivor."""
    return (context.keep + 1) * context.removed * (context.width + 1)


def magnitude_macs(context: BlockContext) -> int:
    """Return the multiply-adds of taking values of largest magnitude: comparisons are free, sizes are added."""
    return size_macs(context)


# Soft fusion has reached its limits at this temperature and its inverse, both of which are normal numbers in float32.
_LIMIT = 2.0**100
# Largest weight of a token in a mean: the sum of those of all tokens is finite in float32.
_LARGEST_WEIGHT = 2.0**100

DROP = Fusion(lambda inputs: plans.drop(inputs.kept, inputs.removed), "drop", needs_match=False)


def best_share(match: Float[Array, "B R K"]) -> Float[Array, "B K R"]:
    """Return shares `[B, K, R]` that assign each removed token to its best match.

    Args:
        match: `[B, R, K]` similarity of removed and kept tokens. Ties go to the lower row.
    """
    return jax.nn.one_hot(match.argmax(-1), match.shape[-1], axis=1, dtype=jnp.float32)


def soft_share(match: Float[Array, "B R K"], temperature: float = 1.0, top: int | None = None) -> Float[Array, "B K R"]:
    """Return shares `[B, K, R]` that split each removed token in proportion to `match ** (1 / temperature)`.

    Negative matches receive nothing. A removed token without a positive match is split equally among all kept tokens.
    The shares of a removed token sum to 1 at any temperature.

    Args:
        match: `[B, R, K]` similarity of removed and kept tokens; -inf where a kept token must not receive.
        temperature: Finite and > 0. As it approaches 0, the best match receives everything.
        top: Number of best matches that receive a share. None means all.
    """
    best = match.max(-1, keepdims=True)
    uniform = jnp.where(jnp.isneginf(match), 0, jnp.ones_like(match))
    relative = jnp.where(best > 0, match / jnp.where(best > 0, best, 1), uniform)
    if top is not None:
        relative = jnp.where(largest_mask(jax.lax.stop_gradient(relative), min(top, match.shape[-1])), relative, 0)
    positive = relative > 0
    logarithm = jnp.where(positive, jnp.log(jnp.where(positive, relative, 1)), -jnp.inf)
    # The best match has logarithm 0 only up to rounding, which a low temperature would amplify. The barrier keeps a
    # compiler from computing the logarithm a second time, with another rounding, for the maximum.
    logarithm = jax.lax.optimization_barrier(logarithm)
    difference = logarithm - jax.lax.stop_gradient(logarithm.max(-1, keepdims=True))
    powered = jnp.exp(difference / min(max(temperature, 1 / _LIMIT), _LIMIT))
    return jnp.swapaxes(powered / powered.sum(-1, keepdims=True), 1, 2)


def require_match(inputs: FusionInputs) -> Float[Array, "B R K"]:
    """Return the match of `inputs`, which must have one."""
    assert inputs.match is not None
    return inputs.match


def _hard(inputs: FusionInputs) -> Plan:
    return plans.average(inputs.kept, inputs.removed, best_share(require_match(inputs)), inputs.tokens.size)


def _unweighted(inputs: FusionInputs) -> Plan:
    share = best_share(require_match(inputs))
    return plans.average(inputs.kept, inputs.removed, share, jnp.ones_like(inputs.tokens.size))


def _score_mean(inputs: FusionInputs) -> Plan:
    # A score of infinity, that of a token which must stay, is a weight so large that the token does not change.
    weight = jnp.clip(jax.lax.stop_gradient(inputs.score).astype(jnp.float32), 0, _LARGEST_WEIGHT)
    return plans.average(inputs.kept, inputs.removed, best_share(require_match(inputs)), weight)


def _largest_magnitude(inputs: FusionInputs) -> Plan:
    share = best_share(require_match(inputs))
    return plans.largest_magnitude(inputs.kept, inputs.removed, share, inputs.tokens.patches)


def _soft(inputs: FusionInputs) -> Plan:
    return plans.average(inputs.kept, inputs.removed, soft_share(require_match(inputs)), inputs.tokens.size)


def _represent(inputs: FusionInputs) -> Plan:
    return plans.represent(inputs.kept, inputs.removed, best_share(require_match(inputs)))


# These assign each removed token to its best match. The result is the mean weighted by size (HARD: ToMe, TC-ViT), the
# plain mean (UNWEIGHTED: clusters), the mean weighted by score, where a negative score counts as 0 (SCORE_MEAN:
# saliency-driven merging), the kept token itself (REPRESENT: medoids), or the value of largest magnitude in each
# channel (LARGEST_MAGNITUDE: CubistMerge). SOFT splits each removed token among all kept ones, in proportion to the
# match.
HARD = Fusion(_hard, "merge", macs=average_macs)
UNWEIGHTED = Fusion(_unweighted, "merge", macs=average_macs)
SCORE_MEAN = Fusion(_score_mean, "merge", macs=average_macs)
REPRESENT = Fusion(_represent, "merge", macs=size_macs)
LARGEST_MAGNITUDE = Fusion(_largest_magnitude, "merge", macs=magnitude_macs)
SOFT = Fusion(_soft, "merge", is_soft=True, macs=average_macs)


def pool(inputs: FusionInputs, weight: Float[Array, "B R"]) -> Plan:
    """Return the plan that fuses the removed tokens into one extra token behind the kept ones.

    Args:
        inputs: Inputs of the fusion.
        weight: `[B, R]` weight of each removed token.
    """
    return plans.pool(inputs.kept, inputs.removed, weight)


def _mean_token(inputs: FusionInputs) -> Plan:
    return pool(inputs, jnp.full(inputs.removed.shape, 1 / inputs.removed.shape[1], jnp.float32))


MEAN_TOKEN = Fusion(_mean_token, "propagate", needs_match=False, extra_tokens=1, macs=pool_macs)


def _class_token(inputs: FusionInputs) -> Plan:
    row = inputs.signals.class_row
    assert row is not None
    return pool(inputs, take_rows(row.mean(1)[:, inputs.tokens.prefix :], inputs.removed))


# As in EViT, class attention is not normalized: the weights do not sum to one.
CLASS_TOKEN = Fusion(
    _class_token,
    "propagate",
    needs_match=False,
    extra_tokens=1,
    signals=("class_row",),
    macs=pool_macs,
    needs_class_token=True,
)


def propagate(alpha: float) -> Fusion:
    """Return the fusion that adds `alpha * match` times each removed token to each kept one (GTP).

    Sizes are added with the same weights as features.

    Args:
        alpha: Propagation strength, in [0, 1].
    """

    def add(inputs: FusionInputs) -> Plan:
        positive = jnp.maximum(jnp.swapaxes(require_match(inputs), 1, 2), 0)
        return plans.add(inputs.kept, inputs.removed, alpha * positive)

    return Fusion(add, "propagate", macs=add_macs)
