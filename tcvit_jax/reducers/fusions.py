"""What becomes of removed tokens: the fusions that several methods share."""

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
    """Multiply-adds of sizes that pass from removed tokens to kept ones."""
    return context.keep * context.removed


def add_macs(context: BlockContext) -> int:
    """Those of features and sizes."""
    return size_macs(context) * (context.width + 1)


def average_macs(context: BlockContext) -> int:
    """Those, and a factor for every kept token."""
    return add_macs(context) + context.keep * context.width


def pool_macs(context: BlockContext) -> int:
    """Those of one more survivor; the product has a row for every one."""
    return (context.keep + 1) * context.removed * (context.width + 1)


DROP = Fusion(lambda inputs: plans.drop(inputs.kept, inputs.removed), "drop", needs_match=False)


def best_share(match: Float[Array, "B R K"]) -> Float[Array, "B K R"]:
    """All of a removed token to the kept one it matches best: `[B, K, R]` from `[B, R, K]`; ties to the lower row."""
    return jax.nn.one_hot(match.argmax(-1), match.shape[-1], axis=1, dtype=jnp.float32)


def soft_share(match: Float[Array, "B R K"], temperature: float = 1.0, top: int | None = None) -> Float[Array, "B K R"]:
    """A removed token split in proportion to `match ** (1 / temperature)`: `[B, K, R]` from `[B, R, K]`.

    Every removed token goes somewhere: to all alike, if it matches none. What matches less than nothing gets nothing.

    Args:
        match: -inf where a kept token must not receive.
        temperature: towards 0 the best one gets all.
        top: only so many best ones receive; None for all.
    """
    best = match.max(-1, keepdims=True)
    alike = jnp.where(jnp.isneginf(match), 0, 1)
    relative = jnp.where(best > 0, match / jnp.where(best > 0, best, 1), alike)
    if top is not None:
        relative = jnp.where(largest_mask(jax.lax.stop_gradient(relative), min(top, match.shape[-1])), relative, 0)
    positive = relative > 0
    powered = jnp.where(positive, jnp.exp(jnp.log(jnp.where(positive, relative, 1)) / temperature), 0)
    return jnp.swapaxes(powered / powered.sum(-1, keepdims=True), 1, 2)


def require_match(inputs: FusionInputs) -> Float[Array, "B R K"]:
    """The match of a choice that has one."""
    assert inputs.match is not None
    return inputs.match


def _hard(inputs: FusionInputs) -> Plan:
    return plans.average(inputs.kept, inputs.removed, best_share(require_match(inputs)), inputs.tokens.size)


def _unweighted(inputs: FusionInputs) -> Plan:
    share = best_share(require_match(inputs))
    return plans.average(inputs.kept, inputs.removed, share, jnp.ones_like(inputs.tokens.size))


def _soft(inputs: FusionInputs) -> Plan:
    return plans.average(inputs.kept, inputs.removed, soft_share(require_match(inputs)), inputs.tokens.size)


def _representing(inputs: FusionInputs) -> Plan:
    return plans.represent(inputs.kept, inputs.removed, best_share(require_match(inputs)))


# Into the best match: by the mean weighted with sizes (ToMe, TC-ViT), by the plain mean (clusters), or not at all: the
# kept token stands for the others (medoids). Or into all of them, in proportion to the match.
HARD = Fusion(_hard, "merge", macs=average_macs)
UNWEIGHTED = Fusion(_unweighted, "merge", macs=average_macs)
REPRESENT = Fusion(_representing, "merge", macs=size_macs)
SOFT = Fusion(_soft, "merge", is_soft=True, macs=average_macs)


def pool(inputs: FusionInputs, weight: Float[Array, "B R"]) -> Plan:
    """The removed tokens, `weight [B, R]` of each, become one more behind the kept ones."""
    return plans.pool(inputs.kept, inputs.removed, weight)


def _mean_token(inputs: FusionInputs) -> Plan:
    return pool(inputs, jnp.full(inputs.removed.shape, 1 / inputs.removed.shape[1], jnp.float32))


MEAN_TOKEN = Fusion(_mean_token, "propagate", needs_match=False, extra_tokens=1, macs=pool_macs)


def _class_token(inputs: FusionInputs) -> Plan:
    row = inputs.signals.class_row
    assert row is not None
    return pool(inputs, take_rows(row.mean(1)[:, inputs.tokens.prefix :], inputs.removed))


# EViT's: weighted by class attention as it is, which does not sum to one.
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
    """`alpha` times the match of each removed token is added to each kept one, features and size alike (GTP)."""

    def add(inputs: FusionInputs) -> Plan:
        positive = jnp.maximum(jnp.swapaxes(require_match(inputs), 1, 2), 0)
        return plans.add(inputs.kept, inputs.removed, alpha * positive)

    return Fusion(add, "propagate", macs=add_macs)
