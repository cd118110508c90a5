"""Plans: how a reducer writes one down, and the one function that carries it out."""

from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int32, Num, Shaped

from tcvit_jax.ops.gather import one_hot_rows, product, rows_by_index, take_rows
from tcvit_jax.ops.platforms import by_platform
from tcvit_jax.tokens import Plan, Tokens


def drop(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"]) -> Plan:
    """Pruning: kept tokens stay as they are, and removed ones leave nothing behind."""
    return Plan(kept, removed, weight=None, self_weight=None, share=None, target=jnp.full_like(removed, -1))


def add(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], weight: Float32[Array, "B K R"]) -> Plan:
    """Kept tokens stay as they are, and `weight [B, K, R]` of each removed one is added, features and size alike."""
    return Plan(kept, removed, weight, self_weight=None, share=weight, target=_strongest(weight))


def average(
    kept: Int32[Array, "B K"],
    removed: Int32[Array, "B R"],
    share: Float32[Array, "B K R"],
    mass: Float32[Array, "B N"],
    *,
    discount: Float32[Array, "B _ R"] | None = None,
) -> Plan:
    """Kept tokens become the mean, weighted by mass, of themselves and of the share they get of each removed one.

    Args:
        kept: `[B, K]`.
        removed: `[B, R]`.
        share: `[B, K, R]`; where a column sums to 1 nothing of that token is lost.
        mass: `[B, N]`, what each patch token weighs now, such as its size.
        discount: `[B, K, R]` or `[B, 1, R]`, a factor on the weight of each removed token's share, and not on its
            size; None for 1.
    """
    own, others = take_rows(mass, kept), take_rows(mass, removed)
    passed = share * others[:, None, :]
    if discount is not None:
        passed *= discount
    total = own + passed.sum(-1)
    whole = jnp.where(total > 0, total, 1)
    self_weight = jnp.where(total > 0, own / whole, 1)
    return Plan(kept, removed, passed / whole[..., None], self_weight, share=share, target=_strongest(share))


def pool(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], weight: Float32[Array, "B R"]) -> Plan:
    """Kept tokens stay as they are, and the removed ones, `weight [B, R]` of each, become one more behind them.

    Its size is the sum of theirs, whatever the weights of the features.
    """
    rows = ((0, 0), (kept.shape[1], 0), (0, 0))
    share = jnp.pad(jnp.ones((*removed.shape[:1], 1, removed.shape[1]), jnp.float32), rows)
    target = jnp.full_like(removed, kept.shape[1])
    return Plan(kept, removed, jnp.pad(weight[:, None, :], rows), self_weight=None, share=share, target=target)


def represent(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], share: Float32[Array, "B K R"]) -> Plan:
    """Kept tokens stay as they are, and stand for the removed ones from now on: sizes and patches alone pass on."""
    return Plan(kept, removed, weight=None, self_weight=None, share=share, target=_strongest(share))


def mask(kept: Int32[Array, "B K"], removed: Int32[Array, "B R"], valid: Bool[Array, "B K"]) -> Plan:
    """Pruning, of the kept tokens too where `valid [B, K]` is false: these only fill the width."""
    return replace(drop(kept, removed), valid=valid)


def scale_features(plan: Plan, factor: Float32[Array, "B {plan.survivors}"]) -> Plan:
    """The same plan with every survivor's features times `factor [B, S]`."""
    weight = None if plan.weight is None else plan.weight * factor[..., None]
    own = factor[:, : plan.kept.shape[1]]
    return replace(plan, weight=weight, self_weight=own if plan.self_weight is None else plan.self_weight * own)


def with_shares(plan: Plan, share: Float32[Array, "B {plan.survivors} R"]) -> Plan:
    """The same plan for features, with other parts `[B, S, R]` of the sizes."""
    return replace(plan, share=share)


def _strongest(share: Float32[Array, "B K R"]) -> Int32[Array, "B R"]:
    """`[B, R]`: the kept row that gets the most of each removed token (ties: the lower row), -1 where none does."""
    return jnp.where((share > 0).any(1), share.argmax(1), -1).astype(jnp.int32)


def apply(plan: Plan, tokens: Tokens) -> Tokens:
    """Carry out a plan: features, sizes, origins, slots and blends follow in one call.

    Features are summed in float32 and returned in the dtype they came in; prefix tokens pass untouched.
    """
    _check(plan)
    size = _behind(take_rows(tokens.size, plan.kept), plan.survivors) + _received(plan, tokens.size)
    return replace(
        tokens,
        x=combine(plan, tokens.x, tokens.prefix),
        size=size if plan.valid is None else jnp.where(plan.valid, size, 0),
        origin=_behind(take_rows(tokens.origin, plan.kept), plan.survivors, fill=-1),
        slots=update_slots(plan, tokens.slots),
        restore_weights=None
        if tokens.restore_weights is None
        else update_restore_weights(plan, tokens.restore_weights),
    )


# One function of its own at each shape: what the two forms close over would be compiled anew at every call.
@partial(jax.jit, static_argnames="prefix", inline=True)
def combine(plan: Plan, x: Float[Array, "B T D"], prefix: int = 0) -> Float[Array, "B {prefix+plan.survivors} D"]:
    """The features after a plan, `[B, P + S, D]` of `x [B, P + N, D]`: `self_weight * x[kept] + weight @ x[removed]`.

    Behind prefix tokens, which pass untouched; summed in float32, in the dtype of `x`.
    """
    return by_platform(
        lambda plan, x: combine_by_product(plan, x, prefix), lambda plan, x: combine_by_index(plan, x, prefix), plan, x
    )


def combine_by_index(plan: Plan, x: Float[Array, "B T D"], prefix: int) -> Float[Array, "B {prefix+plan.survivors} D"]:
    """`combine` by indexed rows and one thin product."""
    patches = x[:, prefix:]
    kept = rows_by_index(patches, plan.kept)
    if plan.self_weight is not None:
        kept = plan.self_weight[..., None] * kept
    if plan.weight is not None:
        removed = rows_by_index(patches, plan.removed).astype(jnp.float32)
        kept = _behind(kept, plan.survivors) + jnp.einsum("bsr,brd->bsd", plan.weight, removed, precision="highest")
    return jnp.concatenate([x[:, :prefix], kept.astype(x.dtype)], axis=1)


def combine_by_product(
    plan: Plan, x: Float[Array, "B T D"], prefix: int
) -> Float[Array, "B {prefix+plan.survivors} D"]:
    """`combine` by a product that brings the rows in order, prefix, survivors and removed ones, and the thin one."""
    front = jnp.broadcast_to(jnp.arange(prefix, dtype=jnp.int32), (x.shape[0], prefix))
    kept = _behind(plan.kept + prefix, plan.survivors, fill=-1)
    order = [front, kept] if plan.weight is None else [front, kept, plan.removed + prefix]
    chosen = one_hot_rows(jnp.concatenate(order, axis=1), x.shape[1], x.dtype)
    rows = product("bst,btd->bsd", chosen, x)
    stay = prefix + plan.survivors
    kept = rows[:, :stay]
    if plan.self_weight is not None:
        own = _behind(plan.self_weight, plan.survivors)
        kept = jnp.pad(own, ((0, 0), (prefix, 0)), constant_values=1)[..., None] * kept
    if plan.weight is not None:
        weight = jnp.pad(plan.weight, ((0, 0), (prefix, 0), (0, 0)))
        removed = rows[:, stay:].astype(jnp.float32)
        kept = kept + jnp.einsum("bsr,brd->bsd", weight, removed, precision="highest")
    return kept.astype(x.dtype)


def _check(plan: Plan) -> None:
    """A plan of another shape would broadcast without a word."""
    for matrix in (plan.weight, plan.share):
        if matrix is not None:
            chex.assert_shape(matrix, (plan.kept.shape[0], plan.survivors, plan.removed.shape[1]))
    if plan.self_weight is not None:
        chex.assert_equal_shape((plan.kept, plan.self_weight))


def _behind(x: Shaped[Array, "B K *rest"], survivors: int, fill: float = 0) -> Shaped[Array, "B {survivors} *rest"]:
    """`x [B, K, ...]` with rows of `fill` behind, for the survivors that were not there before: `[B, S, ...]`."""
    more = ((0, 0), (0, survivors - x.shape[1]), *((0, 0),) * (x.ndim - 2))
    return jnp.pad(x, more, constant_values=fill)


def _received(plan: Plan, size: Float32[Array, "B N"]) -> Float32[Array, "B {plan.survivors}"] | float:
    """`[B, S]`: the sizes that removed tokens pass on."""
    if plan.share is None:
        return 0.0
    return jnp.einsum("bsr,br->bs", plan.share, take_rows(size, plan.removed), precision="highest")


def update_slots(plan: Plan, slots: Int32[Array, "B N0"]) -> Int32[Array, "B N0"]:
    """The row that holds each original patch after the plan, `[B, N0]`, from the row before it; -1 stays -1."""
    row = jnp.broadcast_to(jnp.arange(plan.kept.shape[1], dtype=jnp.int32), plan.kept.shape)
    row = row if plan.valid is None else jnp.where(plan.valid, row, -1)

    def one(
        kept: Int32[Array, " K"],
        row: Int32[Array, " K"],
        removed: Int32[Array, " R"],
        target: Int32[Array, " R"],
        slots: Int32[Array, " N0"],
    ) -> Int32[Array, " N0"]:
        moved_to = jnp.zeros(kept.size + removed.size, jnp.int32)
        moved_to = moved_to.at[kept].set(row).at[removed].set(target)
        return jnp.where(slots < 0, -1, moved_to[jnp.maximum(slots, 0)])

    # Mapped over images, and not indexed by image: XLA would gather the whole batch for such a scatter.
    return jax.vmap(one)(plan.kept, row, plan.removed, plan.target, slots)


def update_restore_weights(
    plan: Plan, restore_weights: Float32[Array, "B N0 N"]
) -> Float32[Array, "B N0 {plan.survivors}"]:
    """Of what parts of the survivors each original patch is restored, `[B, N0, S]`, from the parts `[B, N0, N]` before.

    A removed token is restored from the survivors in proportion to the shares that they got of it.
    """
    columns = jnp.swapaxes(restore_weights, 1, 2)
    kept = jnp.swapaxes(take_rows(columns, plan.kept), 1, 2)
    kept = jnp.pad(kept, ((0, 0), (0, 0), (0, plan.survivors - kept.shape[2])))
    if plan.share is None:
        return kept
    total = plan.share.sum(1, keepdims=True)
    parts = plan.share / jnp.where(total > 0, total, 1)
    return kept + jnp.einsum("brn,bsr->bns", take_rows(columns, plan.removed), parts, precision="highest")


def restore(
    x: Num[Array, "B N *rest"], slots: Int32[Array, "B N0"], restore_weights: Float32[Array, "B N0 N"] | None = None
) -> Num[Array, "B N0 *rest"]:
    """Condensed tokens back on the patch grid: every original patch gets the features of the token that holds it.

    Args:
        x: `[B, N, ...]` of the surviving patch tokens alone, without prefix: features, sizes, anything.
        slots: `[B, N0]`, as in `Trace.slots`: the row of `x` that holds each patch, or -1.
        restore_weights: `[B, N0, N]`, from `Tokens.restore_weights`: parts of several rows instead of one slot.

    Returns:
        `[B, N0, ...]` in raster order, in the dtype of `x`; zero where a patch was lost.
    """
    if restore_weights is not None:
        return jnp.einsum("bns,bs...->bn...", restore_weights, x.astype(jnp.float32), precision="highest").astype(
            x.dtype
        )
    lost = (slots < 0).reshape(*slots.shape, *(1,) * (x.ndim - 2))
    return jnp.where(lost, 0, take_rows(x, jnp.maximum(slots, 0)))


def pool_patches(
    values: Float32[Array, "B N0 *rest"],
    slots: Int32[Array, "B N0"],
    survivors: int,
    restore_weights: Float32[Array, "B N0 {survivors}"] | None = None,
) -> tuple[Float32[Array, "B {survivors} *rest"], Float32[Array, "B {survivors}"]]:
    """What belongs to the original patches, condensed as they were: the inverse of `restore`.

    Args:
        values: `[B, N0, ...]` float32 of original patches, such as their labels.
        slots: `[B, N0]`, as for `restore`.
        survivors: `N`, how many tokens there are.
        restore_weights: `[B, N0, N]`, as for `restore`.

    Returns:
        `[B, N, ...]`, each token's mean over the patches, or the parts of them, that it holds; 0 where it holds none.
        And `[B, N]`, how many these are.
    """
    held = jax.nn.one_hot(slots, survivors, dtype=jnp.float32) if restore_weights is None else restore_weights
    count = held.sum(1)
    total = jnp.einsum("bns,bn...->bs...", held, values, precision="highest")
    count_of = count.reshape(*count.shape, *(1,) * (values.ndim - 2))
    return total / jnp.where(count_of > 0, count_of, 1), count
