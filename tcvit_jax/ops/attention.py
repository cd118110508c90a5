"""Multi-head attention that hands out signals: the few statistics of its map that a reducer asked for.

The softmax is left unnormalised (`e = exp(s - max)`, `l = rowsum(e)`) until after the value product, on an
explicit `[B, H, T, d]` layout, which is several times faster on a CPU than the textbook order. Each statistic is a
sum over the map, of what is stored of it anyhow or computed anew by the platform; no map of all heads is handed out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from tcvit_jax.ops.platforms import by_platform
from tcvit_jax.ops.ranking import smallest

SIGNALS = ("class_row", "diagonal", "received", "value_norm", "keys", "map", "map_max")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Signals:
    """Statistics of one attention map, float32; `None` where nobody asked. Rows are queries, columns keys.

    Attributes:
        class_row: `[B, H, T]`, how much the class token attends to each token; the mean of the class and the
            distillation token's rows where there are both.
        diagonal: `[B, H, T]`, how much each token attends to itself.
        received: `[B, H, T]`, the column sums over all queries.
        value_norm: `[B, H, T]`, the Euclidean length of each value.
        keys: `[B, T, d]`, the keys averaged over heads.
        map: `[B, T, T]`, the map averaged over heads.
        map_max: `[B, T, T]`, its largest entry over heads; rows sum to more than 1.
    """

    class_row: Array | None = None
    diagonal: Array | None = None
    received: Array | None = None
    value_norm: Array | None = None
    keys: Array | None = None
    map: Array | None = None
    map_max: Array | None = None


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    key_bias: Array | None = None,
    signals: Collection[str] = (),
    class_tokens: int = 1,
    keep: float = 1.0,
    read: int | None = None,
    masked: bool = False,
) -> tuple[Array, Signals]:
    """Scaled dot-product attention; scores are summed, and their softmax taken, in float32 whatever the inputs' dtype.

    Args:
        q, k, v: `[B, H, T, d]`; `q` may hold fewer rows, where signals and sparsification do not need the others.
        key_bias: `[B, T]` added to every query's score of that key, e.g. `log(size)` (proportional attention).
        signals: names out of `SIGNALS`.
        class_tokens: how many of the first queries `class_row` averages.
        keep: the part of the map's entries to keep, 1 for all (see `sparsified`). Signals are of what is left.
        read: return the values of the first `read` queries alone; None for all.
        masked: whether any `key_bias` is -inf.

    Returns:
        The values `[B, H, T or read, d]` in the dtype of `v`, and the `Signals`.
    """
    q = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    if masked:
        assert key_bias is not None
        scores = jnp.where(jnp.isneginf(key_bias)[:, None, None, :], -jnp.inf, scores)
    top = jax.lax.stop_gradient(scores.max(-1))
    e = jnp.exp(scores - top[..., None])
    weight = None if key_bias is None else jnp.exp(key_bias)
    if weight is not None:
        # A factor behind the exponential and not a term before it, where it would hide from the compiler of a TPU that
        # the map is a softmax, of which it need not store the scores.
        e *= weight[:, None, None, :]
    inverse = 1 / e.sum(-1)
    if keep < 1:
        # Entries are compared across rows: they have to be normalised first.
        e, inverse = sparsified(e * inverse[..., None], keep), jnp.ones_like(inverse)
    if not signals:
        found = Signals()
    elif keep < 1 or masked:
        found = stored_statistics(e, inverse, k, v, signals, class_tokens)
    else:
        found = by_platform(
            lambda q, k, v, weight, e, top, inverse: computed_statistics(
                q, k, v, weight, top, inverse, signals, class_tokens
            ),
            lambda q, k, v, weight, e, top, inverse: stored_statistics(e, inverse, k, v, signals, class_tokens),
            *(q, k, v, weight, e, top, inverse),
        )
    e, inverse = e[:, :, :read], inverse[:, :, :read]
    values = jnp.einsum("bhqk,bhkd->bhqd", e.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (values * inverse[..., None]).astype(v.dtype), found


def sparsified(weights: Array, keep: float) -> Array:
    """The map with its smallest entries set to 0, per image and head over the whole map; rows are not scaled up again.

    Below the `int(T * T * (1 - keep))`-th smallest entry, in double precision in exactly this form, all are dropped
    (GTP-ViT, section 3; its official count). 1 - 0.9 is a little less than 0.1 there, so that 190 tokens at 0.9 lose
    3,608 entries and not 3,609. Where the count is 0, all stay.

    Args:
        weights: `[B, H, T, T]` float32, not negative.
        keep: `0 < keep <= 1`.
    """
    entries = weights.shape[-2] * weights.shape[-1]
    rank = int(entries * (1 - keep))
    if rank == 0:
        return weights
    flat = jax.lax.stop_gradient(weights).reshape(*weights.shape[:-2], entries)
    return jnp.where(weights < smallest(flat, rank)[..., None, None], 0, weights)


def stored_statistics(
    e: Array, inverse: Array, k: Array, v: Array, signals: Collection[str], class_tokens: int
) -> Signals:
    """The signals of a map `e [B, H, T, T]`, whose rows still have to be multiplied with `inverse [B, H, T]`."""
    weights = e * inverse[..., None]
    compute = {
        "class_row": lambda: weights[:, :, :class_tokens].mean(2),
        "diagonal": lambda: jnp.diagonal(e, axis1=-2, axis2=-1) * inverse,
        # A product of a row with the map takes less than a pass over it on a CPU.
        "received": lambda: jnp.einsum("bhq,bhqk->bhk", inverse, e, precision="highest"),
        "value_norm": lambda: _length(v.astype(jnp.float32)),
        "keys": lambda: k.astype(jnp.float32).mean(1),
        "map": lambda: weights.mean(1),
        "map_max": lambda: weights.max(1),
    }
    return Signals(**{name: compute[name]() for name in signals})


def computed_statistics(
    q: Array,
    k: Array,
    v: Array,
    weight: Array | None,
    top: Array,
    inverse: Array,
    signals: Collection[str],
    class_tokens: int,
) -> Signals:
    """The signals of the map of `q * d ** -0.5` and `k`, computed anew from them: on a TPU, where products are cheap.

    With the `weight [B, T]` of each key, None for 1, the largest score `top [B, H, T]` of each row and the `inverse`
    of its sum. Keys are rows here: the compiler sums what leaves the matrix unit, and would store the map if its
    entries were those that the values are weighted with.
    """
    # One pass finds the maximum and a sum over queries, and nobody has to store a maximum for it. Not so for heads.
    over_heads = bool({"map", "map_max"} & set(signals))

    def weights(part: slice) -> Array:
        """`[B, H, T, Q]`, keys before queries."""
        scores = jnp.einsum("bhkd,bhqd->bhkq", k, q[:, :, part], preferred_element_type=jnp.float32)
        shift = top[:, :, part] if over_heads else jax.lax.stop_gradient(scores.max(-2))
        e = jnp.exp(scores - shift[:, :, None, :])
        if weight is not None:
            e *= weight[:, None, :, None]
        return e * inverse[:, :, None, part]

    whole, classes, own = slice(None), slice(class_tokens), jnp.eye(k.shape[2], dtype=bool)
    compute = {
        "class_row": lambda: weights(classes).mean(-1),
        "diagonal": lambda: jnp.where(own, weights(whole), 0).sum(-1),
        "received": lambda: weights(whole).sum(-1),
        "value_norm": lambda: _length(v.astype(jnp.float32)),
        "keys": lambda: k.astype(jnp.float32).mean(1),
        "map": lambda: jnp.swapaxes(weights(whole).mean(1), 1, 2),
        "map_max": lambda: jnp.swapaxes(weights(whole).max(1), 1, 2),
    }
    return Signals(**{name: compute[name]() for name in signals})


def _length(x: Array) -> Array:
    """The Euclidean length over the last axis; its gradient is 0, and not NaN, where `x` is."""
    square = (x**2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
