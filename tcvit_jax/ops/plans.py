"""Constructors of plans, and the functions that apply a plan to tokens."""

from dataclasses import replace
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int32, Num, Shaped

from tcvit_jax.errors import invalid, kind_of
from tcvit_jax.ops import matching
from tcvit_jax.ops.gather import one_hot_einsum, one_hot_rows, rows_by_index, take_rows
from tcvit_jax.ops.platforms import by_platform
from tcvit_jax.tokens import Plan, Tokens


def drop(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"]) -> Plan:
    """Return a plan that prunes tokens: kept tokens are not changed, and removed tokens are dropped.

    Args:
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
    """
    return Plan(kept, removed, weight=None, self_weight=None, share=None, target=jnp.full_like(removed, -1))


def add(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], weight: Float32[Array, "B K R"]) -> Plan:
    """Return a plan that adds weighted removed tokens to kept tokens, in features and sizes.

    Args:
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
        weight: `[B, K, R]` weight of each removed token in each kept token.
    """
    return Plan(kept, removed, weight, self_weight=None, share=weight, target=_largest_share(weight))


def average(
    kept: Int32[Array, "B K"],
    removed: Int32[Array, "B R"],
    share: Float32[Array, "B K R"],
    mass: Float32[Array, "B N"],
    *,
    discount: Float32[Array, "_ _ _"] | None = None,
) -> Plan:
    """Return a plan that replaces each kept token by the mass-weighted mean of itself and its shares of removed tokens.

    Args:
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
        share: `[B, K, R]` share of each removed token that each kept token receives. If a column sums to 1, the removed
            token is merged completely.
        mass: `[B, N]` mass of each patch token, such as its size.
        discount: `[B, K, R]`, or 1 in place of any of these sizes, a factor on the mass of each share, but not on
            sizes; None for 1.
    """
    kept_mass, removed_mass = take_rows(mass, kept), take_rows(mass, removed)
    share_mass = share * removed_mass[:, None, :]
    if discount is not None:
        share_mass *= discount
    total = kept_mass + share_mass.sum(-1)
    divisor = jnp.where(total > 0, total, 1)
    self_weight = jnp.where(total > 0, kept_mass / divisor, 1)
    weight = share_mass / divisor[..., None]
    return Plan(kept, removed, weight, self_weight, share=share, target=_largest_share(share))


def pool(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], weight: Float32[Array, "B R"]) -> Plan:
    """Return a plan that fuses all removed tokens into one extra token after the kept tokens.

    The size of the extra token is the sum of the sizes of the removed tokens, regardless of `weight`.

    Args:
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
        weight: `[B, R]` weight of the features of each removed token.
    """
    rows = ((0, 0), (kept.shape[1], 0), (0, 0))
    share = jnp.pad(jnp.ones((*removed.shape[:1], 1, removed.shape[1]), jnp.float32), rows)
    target = jnp.full_like(removed, kept.shape[1])
    return Plan(kept, removed, jnp.pad(weight[:, None, :], rows), self_weight=None, share=share, target=target)


def represent(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], share: Float32[Array, "B K R"]) -> Plan:
    """Return a plan in which kept tokens represent removed tokens: sizes and patches are passed on, features are not.

    Args:
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
        share: `[B, K, R]` share of each removed token that each kept token represents.
    """
    return Plan(kept, removed, weight=None, self_weight=None, share=share, target=_largest_share(share))


def largest_magnitude(
    kept: Int32[Array, "B K"],
    removed: Int32[Array, "B R"],
    share: Float32[Array, "B K R"],
    x: Float[Array, "B N D"],
) -> Plan:
    """Return a plan in which each kept token takes, in every channel, the value of largest magnitude of its tokens.

    Of equal magnitudes, the value of the kept token comes first, then the positive one.

    Args:
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
        share: `[B, K, R]`, 1 where a kept token receives a removed one, and otherwise 0.
        x: `[B, N, D]` features.
    """
    own, others = take_rows(x, kept), take_rows(x, removed)[:, None]
    is_received = (share > 0)[..., None]
    high = jnp.maximum(own, jnp.where(is_received, others, -jnp.inf).max(2))
    low = jnp.minimum(own, jnp.where(is_received, others, jnp.inf).min(2))
    value = jnp.where(high >= -low, high, low)
    features = jnp.where(jnp.abs(own) == jnp.abs(value), own, value)
    plan = Plan(kept, removed, weight=None, self_weight=None, share=share, target=_largest_share(share))
    return replace(plan, features=features)


def mask(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], valid: Bool[Array, "B K"]) -> Plan:
    """Return a plan that prunes tokens to a different number in each image.

    Args:
        kept: `[B, K]` rows of the kept tokens.
        removed: `[B, R]` rows of the removed tokens.
        valid: `[B, K]` bool, False for kept tokens that are pruned as well and only pad the static shape.
    """
    return replace(drop(kept, removed), valid=valid)


def scale_features(plan: Plan, factor: Float32[Array, "B {plan.survivors}"]) -> Plan:
    """Return `plan` with the features of each survivor scaled by `factor [B, S]`."""
    weight = None if plan.weight is None else plan.weight * factor[..., None]
    kept_factor = factor[:, : plan.kept.shape[1]]
    self_weight = kept_factor if plan.self_weight is None else plan.self_weight * kept_factor
    return replace(plan, weight=weight, self_weight=self_weight)


def with_shares(plan: Plan, share: Float32[Array, "B {plan.survivors} R"]) -> Plan:
    """Return `plan` with other shares `[B, S, R]` of the sizes; features are not affected."""
    return replace(plan, share=share)


def _largest_share(share: Float32[Array, "B K R"]) -> Int32[Array, "B R"]:
    """Return the survivor with the largest share of each removed token, `[B, R]`: the first of ties, -1 for none."""
    return jnp.where((share > 0).any(1), share.argmax(1), -1).astype(jnp.int32)


def apply(plan: Plan, tokens: Tokens) -> Tokens:
    """Apply a plan to the features, sizes, origins, slots and restore weights of tokens.

    Features are summed in float32 and returned in their dtype. Prefix tokens are not changed.

    Args:
        plan: The plan of one block.
        tokens: The tokens with `N` patch tokens.

    Returns:
        The tokens with the `S` survivors as patch tokens.
    """
    _check(plan)
    size = _pad(take_rows(tokens.size, plan.kept), plan.survivors) + _size_shares(plan, tokens.size)
    return replace(
        tokens,
        x=combine(plan, tokens.x, tokens.prefix),
        size=size if plan.valid is None else jnp.where(plan.valid, size, 0),
        origin=_pad(take_rows(tokens.origin, plan.kept), plan.survivors, value=-1),
        slots=update_slots(plan, tokens.slots),
        restore_weights=None
        if tokens.restore_weights is None
        else update_restore_weights(plan, tokens.restore_weights),
        stand_ins=None if tokens.stand_ins is None else update_stand_ins(plan, tokens.stand_ins, tokens.patches),
    )


# Compiled once per shape. Without `jit`, the closures of the two implementations would be compiled at every call.
@partial(jax.jit, static_argnames="prefix", inline=True)
def combine(plan: Plan, x: Float[Array, "B T D"], prefix: int = 0) -> Float[Array, "B {prefix+plan.survivors} D"]:
    """Return the features after a plan: `self_weight * x[kept] + weight @ x[removed]`, summed in float32.

    A plan with features of its own gives these.

    Args:
        plan: The plan of one block.
        x: `[B, P + N, D]` features.
        prefix: `P`, the number of prefix tokens, which are not changed.

    Returns:
        `[B, P + S, D]` in the dtype of `x`.
    """
    if plan.features is not None:
        return jnp.concatenate([x[:, :prefix], plan.features.astype(x.dtype)], axis=1)
    return by_platform(
        lambda plan, x: combine_by_product(plan, x, prefix), lambda plan, x: combine_by_index(plan, x, prefix), plan, x
    )


def combine_by_index(plan: Plan, x: Float[Array, "B T D"], prefix: int) -> Float[Array, "B {prefix+plan.survivors} D"]:
    """Implement `combine` by indexing and one product with `weight`."""
    patches = x[:, prefix:]
    kept = rows_by_index(patches, plan.kept)
    if plan.self_weight is not None:
        kept = plan.self_weight[..., None] * kept.astype(jnp.float32)
    if plan.weight is not None:
        removed = rows_by_index(patches, plan.removed).astype(jnp.float32)
        kept = _pad(kept.astype(jnp.float32), plan.survivors)
        kept = kept + jnp.einsum("bsr,brd->bsd", plan.weight, removed, precision="highest")
    return jnp.concatenate([x[:, :prefix], kept.astype(x.dtype)], axis=1)


def combine_by_product(
    plan: Plan, x: Float[Array, "B T D"], prefix: int
) -> Float[Array, "B {prefix+plan.survivors} D"]:
    """Implement `combine` by a one-hot product and one product with `weight`.

    The one-hot product orders the rows: prefix tokens, survivors, removed tokens.
    """
    prefix_rows = jnp.broadcast_to(jnp.arange(prefix, dtype=jnp.int32), (x.shape[0], prefix))
    kept_rows = _pad(plan.kept + prefix, plan.survivors, value=-1)
    order = [prefix_rows, kept_rows] if plan.weight is None else [prefix_rows, kept_rows, plan.removed + prefix]
    selector = one_hot_rows(jnp.concatenate(order, axis=1), x.shape[1], x.dtype)
    rows = one_hot_einsum("bst,btd->bsd", selector, x)
    length = prefix + plan.survivors
    kept = rows[:, :length]
    if plan.self_weight is not None:
        self_weight = jnp.pad(_pad(plan.self_weight, plan.survivors), ((0, 0), (prefix, 0)), constant_values=1)
        kept = self_weight[..., None] * kept.astype(jnp.float32)
    if plan.weight is not None:
        weight = jnp.pad(plan.weight, ((0, 0), (prefix, 0), (0, 0)))
        removed = rows[:, length:].astype(jnp.float32)
        kept = kept.astype(jnp.float32) + jnp.einsum("bsr,brd->bsd", weight, removed, precision="highest")
    return kept.astype(x.dtype)


def _check(plan: Plan) -> None:
    """Check shapes that would otherwise broadcast silently."""
    for matrix in (plan.weight, plan.share):
        if matrix is not None:
            chex.assert_shape(matrix, (plan.kept.shape[0], plan.survivors, plan.removed.shape[1]))
    if plan.self_weight is not None:
        chex.assert_equal_shape((plan.kept, plan.self_weight))


def _pad(x: Shaped[Array, "B K *rest"], survivors: int, value: float = 0) -> Shaped[Array, "B {survivors} *rest"]:
    """Append rows of `value` to `x [B, K, ...]` for the survivors that are fused of removed tokens: `[B, S, ...]`."""
    padding = ((0, 0), (0, survivors - x.shape[1]), *((0, 0),) * (x.ndim - 2))
    return jnp.pad(x, padding, constant_values=value)


def _size_shares(plan: Plan, size: Float32[Array, "B N"]) -> Float32[Array, "B {plan.survivors}"] | float:
    """Return the size that each survivor receives from removed tokens, `[B, S]`."""
    if plan.share is None:
        return 0.0
    return jnp.einsum("bsr,br->bs", plan.share, take_rows(size, plan.removed), precision="highest")


def update_slots(plan: Plan, slots: Int32[Array, "B N0"]) -> Int32[Array, "B N0"]:
    """Update the row that holds each original patch.

    Args:
        plan: The plan of one block.
        slots: `[B, N0]`, the row of each original patch before the plan, or -1.

    Returns:
        `[B, N0]`, the rows after the plan; -1 stays -1.
    """
    row = jnp.broadcast_to(jnp.arange(plan.kept.shape[1], dtype=jnp.int32), plan.kept.shape)
    return _move_rows(plan, slots, row if plan.valid is None else jnp.where(plan.valid, row, -1), plan.target)


def _move_rows(
    plan: Plan, slots: Int32[Array, "B N0"], row: Int32[Array, "B K"], target: Int32[Array, "B R"]
) -> Int32[Array, "B N0"]:
    """Return the new row of each original patch, from those of the kept tokens and of the removed ones."""

    def update(
        kept: Int32[Array, " K"],
        row: Int32[Array, " K"],
        removed: Int32[Array, " R"],
        target: Int32[Array, " R"],
        slots: Int32[Array, " N0"],
    ) -> Int32[Array, " N0"]:
        new_row = jnp.zeros(kept.size + removed.size, jnp.int32)
        new_row = new_row.at[kept].set(row).at[removed].set(target)
        return jnp.where(slots < 0, -1, new_row[jnp.maximum(slots, 0)])

    # `vmap` instead of an index over images: XLA would gather the full batch for that scatter.
    return jax.vmap(update)(plan.kept, row, plan.removed, target, slots)


def update_stand_ins(
    plan: Plan, stand_ins: Int32[Array, "B N0"], patches: Float[Array, "B N D"]
) -> Int32[Array, "B N0"]:
    """Update the row from which each original patch is restored.

    A token is restored from the kept token with the highest cosine of features before the plan if the survivors
    together receive at most half of its size.

    Args:
        plan: The plan of one block.
        stand_ins: `[B, N0]`, the row of each original patch before the plan.
        patches: `[B, N, D]`, the features of the patch tokens before the plan.

    Returns:
        `[B, N0]`, the rows after the plan.
    """
    kept = take_rows(patches, plan.kept)

    def most_similar(x: Float[Array, "B I D"]) -> Int32[Array, "B I"]:
        similarity = matching.cosine(x, kept)
        if plan.valid is not None:
            similarity = jnp.where(plan.valid[:, None, :], similarity, -jnp.inf)
        return similarity.argmax(-1).astype(jnp.int32)

    is_held = plan.target >= 0
    if plan.share is not None:
        is_held &= plan.share.sum(1) > 0.5
    row = jnp.broadcast_to(jnp.arange(plan.kept.shape[1], dtype=jnp.int32), plan.kept.shape)
    row = row if plan.valid is None else jnp.where(plan.valid, row, most_similar(kept))
    target = jnp.where(is_held, plan.target, most_similar(take_rows(patches, plan.removed)))
    return _move_rows(plan, stand_ins, row, target)


def update_restore_weights(
    plan: Plan, restore_weights: Float32[Array, "B N0 N"]
) -> Float32[Array, "B N0 {plan.survivors}"]:
    """Update the weights that restore each original patch from the surviving tokens.

    A removed token is restored from the survivors in proportion to their shares of it.

    Args:
        plan: The plan of one block.
        restore_weights: `[B, N0, N]`, the weights before the plan.

    Returns:
        `[B, N0, S]`, the weights after the plan.
    """
    columns = jnp.swapaxes(restore_weights, 1, 2)
    kept = jnp.swapaxes(take_rows(columns, plan.kept), 1, 2)
    kept = jnp.pad(kept, ((0, 0), (0, 0), (0, plan.survivors - kept.shape[2])))
    if plan.share is None:
        return kept
    total = plan.share.sum(1, keepdims=True)
    fractions = plan.share / jnp.where(total > 0, total, 1)
    return kept + jnp.einsum("brn,bsr->bns", take_rows(columns, plan.removed), fractions, precision="highest")


def restore(
    x: Array | np.ndarray, slots: Array | np.ndarray, restore_weights: Array | np.ndarray | None = None
) -> Num[Array, "B N0 *rest"]:
    """Restore condensed tokens to the patch grid: each original patch gets the features of the token that holds it.

    Args:
        x: `[B, N, ...]`, an array of the surviving patch tokens without prefix, such as features or sizes.
        slots: `[B, N0]`, as in `Trace.slots`: the row of `x` that holds each original patch, or -1.
        restore_weights: `[B, N0, N]`, from `Tokens.restore_weights`: a weighted sum of rows instead of one slot.

    Returns:
        `[B, N0, ...]` in raster order, in the dtype of `x`; zero for lost patches. `ViT.features` restores these from
        the most similar survivor (`Tokens.stand_ins`).

    Raises:
        InputError: An argument is not an array of these dimensions.
    """
    _check_array("x", x, jnp.number, ("B", "N"), has_rest=True)
    _check_array("slots", slots, jnp.integer, (x.shape[0], "N0"))
    x, slots = jnp.asarray(x), jnp.asarray(slots)
    if restore_weights is not None:
        _check_array("restore_weights", restore_weights, jnp.floating, (*slots.shape, x.shape[1]))
        return jnp.einsum("bns,bs...->bn...", restore_weights, x.astype(jnp.float32), precision="highest").astype(
            x.dtype
        )
    is_lost = (slots < 0).reshape(*slots.shape, *(1,) * (x.ndim - 2))
    return jnp.where(is_lost, 0, take_rows(x, jnp.maximum(slots, 0)))


def _check_array(name: str, value: object, kind: Any, shape: tuple[Any, ...], *, has_rest: bool = False) -> None:
    """Raise an `InputError` unless `value` is an array of a kind of dtype and a shape.

    Args:
        name: The argument, for error messages.
        value: Its value.
        kind: The kind of dtype, such as `jnp.integer`.
        shape: Sizes, or names for those that are not checked.
        has_rest: Whether further axes may follow.
    """
    if (
        isinstance(value, Array | np.ndarray)
        and jnp.issubdtype(value.dtype, kind)
        and (value.ndim == len(shape) or (has_rest and value.ndim > len(shape)))
        and all(isinstance(size, str) or size == side for size, side in zip(shape, value.shape, strict=False))
    ):
        return
    sizes = ", ".join([*map(str, shape), *(["..."] if has_rest else [])])
    raise invalid(name, f"expected {kind.__name__} [{sizes}], got {kind_of(value)}")


def pool_patches(
    values: Float32[Array, "B N0 *rest"],
    slots: Int32[Array, "B N0"],
    survivors: int,
    restore_weights: Float32[Array, "B N0 {survivors}"] | None = None,
) -> tuple[Float32[Array, "B {survivors} *rest"], Float32[Array, "B {survivors}"]]:
    """Average values of original patches over the patches that each token holds; the inverse of `restore`.

    Args:
        values: `[B, N0, ...]` float32, values of original patches such as labels.
        slots: `[B, N0]`, as in `restore`.
        survivors: `N`, the number of tokens.
        restore_weights: `[B, N0, N]`, as in `restore`.

    Returns:
        `[B, N, ...]`, the weighted mean over the patches of each token, or 0 if it holds none; and `[B, N]`, the number
        of patches of each token (the sum of their weights).
    """
    weights = jax.nn.one_hot(slots, survivors, dtype=jnp.float32) if restore_weights is None else restore_weights
    count = weights.sum(1)
    total = jnp.einsum("bns,bn...->bs...", weights, values, precision="highest")
    divisor = count.reshape(*count.shape, *(1,) * (values.ndim - 2))
    return total / jnp.where(divisor > 0, divisor, 1), count
