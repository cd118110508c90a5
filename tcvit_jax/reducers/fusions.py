"""What becomes of removed tokens: the fusions that several methods share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from tcvit_jax.ops import plans
from tcvit_jax.ops.gather import take_rows
from tcvit_jax.ops.ranking import largest
from tcvit_jax.reducers.parts import Choice, Fusion, Site
from tcvit_jax.tokens import Plan


def passing(site: Site) -> int:
    """Multiply-adds of sizes that pass from removed tokens to kept ones."""
    return site.keep * site.removed


def adding(site: Site) -> int:
    """Those of features and sizes."""
    return passing(site) * (site.width + 1)


def averaging(site: Site) -> int:
    """Those, and a factor for every kept token."""
    return adding(site) + site.keep * site.width


def pooling(site: Site) -> int:
    """Those of one more survivor; the product has a row for every one."""
    return (site.keep + 1) * site.removed * (site.width + 1)


DROP = Fusion(lambda choice: plans.dropping(choice.kept, choice.removed), "dropped", matches=False)


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
        relative = jnp.where(largest(jax.lax.stop_gradient(relative), min(top, match.shape[-1])), relative, 0)
    positive = relative > 0
    powered = jnp.where(positive, jnp.exp(jnp.log(jnp.where(positive, relative, 1)) / temperature), 0)
    return jnp.swapaxes(powered / powered.sum(-1, keepdims=True), 1, 2)


def matched(choice: Choice) -> Float[Array, "B R K"]:
    """The match of a choice that has one."""
    assert choice.match is not None
    return choice.match


def _hard(choice: Choice) -> Plan:
    return plans.averaging(choice.kept, choice.removed, best_share(matched(choice)), choice.tokens.size)


def _unweighted(choice: Choice) -> Plan:
    share = best_share(matched(choice))
    return plans.averaging(choice.kept, choice.removed, share, jnp.ones_like(choice.tokens.size))


def _soft(choice: Choice) -> Plan:
    return plans.averaging(choice.kept, choice.removed, soft_share(matched(choice)), choice.tokens.size)


def _representing(choice: Choice) -> Plan:
    return plans.representing(choice.kept, choice.removed, best_share(matched(choice)))


# Into the best match: by the mean weighted with sizes (ToMe, TC-ViT), by the plain mean (clusters), or not at all: the
# kept token stands for the others (medoids). Or into all of them, in proportion to the match.
HARD = Fusion(_hard, "merged", macs=averaging)
UNWEIGHTED = Fusion(_unweighted, "merged", macs=averaging)
REPRESENT = Fusion(_representing, "merged", macs=passing)
SOFT = Fusion(_soft, "merged", shares=True, macs=averaging)


def pool(choice: Choice, weight: Float[Array, "B R"]) -> Plan:
    """The removed tokens, `weight [B, R]` of each, become one more behind the kept ones."""
    return plans.pooling(choice.kept, choice.removed, weight)


def _mean_token(choice: Choice) -> Plan:
    return pool(choice, jnp.full(choice.removed.shape, 1 / choice.removed.shape[1], jnp.float32))


MEAN_TOKEN = Fusion(_mean_token, "propagated", matches=False, extra=1, macs=pooling)


def _class_token(choice: Choice) -> Plan:
    row = choice.signals.class_row
    assert row is not None
    return pool(choice, take_rows(row.mean(1)[:, choice.tokens.prefix :], choice.removed))


# EViT's: weighted by class attention as it is, which does not sum to one.
CLASS_TOKEN = Fusion(
    _class_token,
    "propagated",
    matches=False,
    extra=1,
    signals=("class_row",),
    macs=pooling,
    reads_class="fuse='class_token' reads class attention: use 'mean_token'",
)


def propagate(alpha: float) -> Fusion:
    """`alpha` times the match of each removed token is added to each kept one, features and size alike (GTP)."""

    def add(choice: Choice) -> Plan:
        positive = jnp.maximum(jnp.swapaxes(matched(choice), 1, 2), 0)
        return plans.adding(choice.kept, choice.removed, alpha * positive)

    return Fusion(add, "propagated", macs=adding)
