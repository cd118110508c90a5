"""Plans: how a reducer writes one down, and the one function that carries it out."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
from jax import Array

from tcvit_jax.ops.gather import take_rows
from tcvit_jax.tokens import Plan, Tokens


def adding(kept: Array, removed: Array, weight: Array) -> Plan:
    """Kept tokens stay as they are, and `weight [B, K, R]` of each removed one is added, features and size alike."""
    ones = jnp.ones(kept.shape, jnp.float32)
    return Plan(kept, removed, weight, ones, share=weight, target=_strongest(weight))


def averaging(kept: Array, removed: Array, share: Array, size: Array) -> Plan:
    """Kept tokens become the mean, weighted by size, of themselves and of the share they get of each removed one.

    Args:
        kept: `[B, K]`.
        removed: `[B, R]`.
        share: `[B, K, R]`; where a column sums to 1 nothing of that token is lost.
        size: `[B, N]`, the sizes of all patch tokens now.
    """
    size_kept, size_removed = take_rows(size, kept), take_rows(size, removed)
    passed = share * size_removed[:, None, :]
    total = size_kept + passed.sum(-1)
    return Plan(kept, removed, passed / total[..., None], size_kept / total, share=share, target=_strongest(share))


def _strongest(share: Array) -> Array:
    """`[B, R]`: the kept row that gets the most of each removed token (ties: the lower row), -1 where none does."""
    return jnp.where((share > 0).any(1), share.argmax(1), -1).astype(jnp.int32)


def apply(plan: Plan, tokens: Tokens) -> Tokens:
    """Carry out a plan: features, sizes, origins and slots follow in one call.

    Two gathers and one small matrix product per image. Prefix tokens pass untouched. The features are summed in
    float32 and returned in the dtype they came in.
    """
    # A plan of another shape would broadcast without a word.
    chex.assert_shape((plan.weight, plan.share), (*plan.kept.shape, plan.removed.shape[1]))
    chex.assert_equal_shape((plan.kept, plan.self_weight))
    patches = tokens.patches
    kept, removed = take_rows(patches, plan.kept), take_rows(patches, plan.removed)
    mixed = jnp.einsum("bkr,brd->bkd", plan.weight, removed.astype(jnp.float32), precision="highest")
    mixed = (plan.self_weight[..., None] * kept + mixed).astype(patches.dtype)
    passed = jnp.einsum("bkr,br->bk", plan.share, take_rows(tokens.size, plan.removed), precision="highest")
    size = take_rows(tokens.size, plan.kept) + passed
    return replace(
        tokens,
        x=jnp.concatenate([tokens.x[:, : tokens.prefix], mixed], axis=1),
        size=size,
        origin=take_rows(tokens.origin, plan.kept),
        slots=follow_slots(plan, tokens.slots),
    )


def follow_slots(plan: Plan, slots: Array) -> Array:
    """The row that holds each original patch after the plan, `[B, N0]`, from the row before it; -1 stays -1."""

    def one(kept: Array, removed: Array, target: Array, slots: Array) -> Array:
        moved_to = jnp.zeros(kept.size + removed.size, jnp.int32)
        moved_to = moved_to.at[kept].set(jnp.arange(kept.size, dtype=jnp.int32)).at[removed].set(target)
        return jnp.where(slots < 0, -1, moved_to[jnp.maximum(slots, 0)])

    # Mapped over images, and not indexed by image: XLA would gather the whole batch for such a scatter.
    return jax.vmap(one)(plan.kept, plan.removed, plan.target, slots)
