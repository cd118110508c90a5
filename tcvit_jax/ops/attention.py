"""Multi-head attention that hands out signals: the few statistics of its map that a reducer asked for.

The softmax is left unnormalized (`e = exp(s - max)`, `l = rowsum(e)`) until after the value product, on an
explicit `[B, H, T, d]` layout, which is several times faster on a CPU than the textbook order. Each statistic is a
sum over the map, of what is stored of it anyhow or computed anew by the platform; no map of all heads is handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import reduce

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32

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

    class_row: Float32[Array, "B H T"] | None = None
    diagonal: Float32[Array, "B H T"] | None = None
    received: Float32[Array, "B H T"] | None = None
    value_norm: Float32[Array, "B H T"] | None = None
    keys: Float32[Array, "B T d"] | None = None
    map: Float32[Array, "B T T"] | None = None
    map_max: Float32[Array, "B T T"] | None = None


def attention(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H T d"],
    v: Float[Array, "B H T d"],
    *,
    key_bias: Float[Array, "B T"] | None = None,
    signals: Collection[str] = (),
    class_tokens: int = 1,
    keep_fraction: float = 1.0,
    num_queries: int | None = None,
    has_mask: bool = False,
) -> tuple[Float[Array, "B H _ d"], Signals]:
    """Scaled dot-product attention; scores are summed, and their softmax taken, in float32 whatever the inputs' dtype.

    Args:
        q, k, v: `[B, H, T, d]`; `q` may hold fewer rows, where signals and sparsification do not need the others.
        key_bias: `[B, T]` added to every query's score of that key, e.g. `log(size)` (proportional attention).
        signals: names out of `SIGNALS`.
        class_tokens: how many of the first queries `class_row` averages.
        keep_fraction: the part of the map's entries to keep, 1 for all (see `sparsify`). Signals are of what is left.
        num_queries: return the values of the first `num_queries` queries alone; None for all.
        has_mask: whether any `key_bias` is -inf.

    Returns:
        The values `[B, H, T or num_queries, d]` in the dtype of `v`, and the `Signals`.
    """
    q = q * q.shape[-1] ** -0.5
    weight = None if key_bias is None else jnp.exp(key_bias)
    mask = jnp.isneginf(key_bias) if has_mask and key_bias is not None else None
    e = unnormalized_weights(q, k, weight, mask)
    if keep_fraction < 1:
        # Entries are compared across rows: they have to be normalized first.
        e = sparsify(e / e.sum(-1, keepdims=True), keep_fraction)

    def values(e: Float32[Array, "B H Q T"]) -> Float[Array, "B H _ d"]:
        e = e[:, :, :num_queries]
        out = jnp.einsum("bhqk,bhkd->bhqd", e.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (out if keep_fraction < 1 else out * (1 / e.sum(-1))[..., None]).astype(v.dtype)

    def stored(q: Array, k: Array, e: Array, weight: Array | None) -> tuple[Array, dict[str, Array]]:
        # A few rows take less from queries and keys than from the map, which nobody has to store then.
        apart = () if keep_fraction < 1 else tuple(name for name in of_map if name == "class_row")
        rest = [name for name in of_map if name not in apart]
        found = statistics_of_map(e, jnp.ones(e.shape[:3]) if keep_fraction < 1 else 1 / e.sum(-1), rest, class_tokens)
        found |= {name: class_row(q[:, :, :class_tokens], k, weight, mask) for name in apart}
        # The values of a copy by name: their product and their sums stay one operation then, which takes two thirds of
        # the time of two on a CPU.
        return values(jax.lax.optimization_barrier(e) if rest else e), found

    def computed(q: Array, k: Array, e: Array, weight: Array | None) -> tuple[Array, dict[str, Array]]:
        probs = e.astype(v.dtype)
        return values(e), recomputed_statistics(q, k, weight, probs, 1 / e.sum(-1), of_map, class_tokens)

    others: dict[str, Callable[[], Array]] = {
        "value_norm": lambda: _length(v.astype(jnp.float32)),
        "keys": lambda: k.astype(jnp.float32).mean(1),
    }
    of_map = [name for name in signals if name not in others]
    if not of_map:
        out, found = values(e), {}
    elif keep_fraction < 1 or has_mask:
        out, found = stored(q, k, e, weight)
    else:
        out, found = by_platform(computed, stored, q, k, e, weight)
    return out, Signals(**found, **{name: compute() for name, compute in others.items() if name in signals})


def unnormalized_weights(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H T d"],
    weight: Float[Array, "B T"] | None,
    mask: Bool[Array, "B T"] | None,
) -> Float32[Array, "B H Q T"]:
    """The map before its rows are divided by their sums, `[B, H, Q, T]` float32.

    Args:
        q: `[B, H, Q, d]`, times `d ** -0.5`.
        k: `[B, H, T, d]`.
        weight: `[B, T]`, a factor on every entry of a key; None for 1. Not a term before the exponential, where it
            would hide from the compiler of a TPU that the map is a softmax, of which it need not store the scores.
        mask: bool `[B, T]`, the keys that nobody attends to; None for none.
    """
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], -jnp.inf, scores)
    e = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    return e if weight is None else e * weight[:, None, None, :]


def class_row(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H T d"],
    weight: Float[Array, "B T"] | None,
    mask: Bool[Array, "B T"] | None,
) -> Float32[Array, "B H T"]:
    """The mean row of the map of a few queries `[B, H, Q, d]`, `[B, H, T]`; the rest as in `unnormalized_weights`."""
    e = unnormalized_weights(q, k, weight, mask)
    return (e / e.sum(-1, keepdims=True)).mean(2)


def sparsify(weights: Float32[Array, "B H Q T"], keep_fraction: float) -> Float32[Array, "B H Q T"]:
    """The map with its smallest entries set to 0, per image and head over the whole map; rows are not scaled up again.

    Below the `int(T * T * (1 - keep_fraction))`-th smallest entry, in double precision in exactly this form, all are dropped
    (GTP-ViT, section 3; its official count). 1 - 0.9 is a little less than 0.1 there, so that 190 tokens at 0.9 lose
    3,608 entries and not 3,609. Where the count is 0, all stay.

    Args:
        weights: `[B, H, T, T]` float32, not negative.
        keep_fraction: `0 < keep_fraction <= 1`.
    """
    entries = weights.shape[-2] * weights.shape[-1]
    rank = int(entries * (1 - keep_fraction))
    if rank == 0:
        return weights
    flat = jax.lax.stop_gradient(weights).reshape(*weights.shape[:-2], entries)
    return jnp.where(weights < smallest(flat, rank)[..., None, None], 0, weights)


def statistics_of_map(
    e: Float32[Array, "B H Q T"], inverse: Float32[Array, "B H Q"], signals: Collection[str], class_tokens: int
) -> dict[str, Float32[Array, "B ..."]]:
    """The signals of a map `e [B, H, T, T]`, whose rows still have to be multiplied with `inverse [B, H, T]`."""
    heads = range(e.shape[1])

    def weights(head: int) -> Float32[Array, "B Q T"]:
        """`[B, T, T]`: one head after the other, so that the map of all is read once and not written again."""
        return e[:, head] * inverse[:, head, :, None]

    compute = {
        "class_row": lambda: (e[:, :, :class_tokens] * inverse[:, :, :class_tokens, None]).mean(2),
        "diagonal": lambda: jnp.diagonal(e, axis1=-2, axis2=-1) * inverse,
        # A product of a row with the map takes less than a pass over it on a CPU.
        "received": lambda: jnp.einsum("bhq,bhqk->bhk", inverse, e, precision="highest"),
        "map": lambda: sum((weights(head) for head in heads[1:]), start=weights(0)) / len(heads),
        "map_max": lambda: reduce(jnp.maximum, map(weights, heads)),
    }
    return {name: compute[name]() for name in signals}


def recomputed_statistics(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H T d"],
    weight: Float[Array, "B T"] | None,
    probs: Float[Array, "B H Q T"],
    inverse: Float32[Array, "B H Q"],
    signals: Collection[str],
    class_tokens: int,
) -> dict[str, Float32[Array, "B ..."]]:
    """The signals of the map of `q * d ** -0.5` and `k`, most of them computed anew, as on a TPU products are cheap.

    A statistic over heads is of the map as it is `probs [B, H, T, T]`, in the dtype of the values, to be multiplied with
    `inverse [B, H, T]`. The others are sums over the queries of a map in float32 that is never stored, with the
    `weight [B, T]` of each key, None for 1, and a maximum of its own. Keys are its rows: the compiler sums what leaves
    the matrix unit, and would store the map if its entries were those that the values are weighted with.
    """
    scores = jnp.einsum("bhkd,bhqd->bhkq", k, q, preferred_element_type=jnp.float32)
    shift = jax.lax.stop_gradient(scores.max(-2, keepdims=True))
    weights = jnp.exp(scores - shift) * inverse[:, :, None, :]
    if weight is not None:
        weights *= weight[:, None, :, None]
    tokens = jnp.arange(k.shape[2])
    own, classes = tokens[:, None] == tokens, tokens < class_tokens
    compute = {
        # A sum over all queries, as the others are: a slice of the queries makes the compiler store the scores.
        "class_row": lambda: jnp.where(classes, weights, 0).sum(-1) / class_tokens,
        "diagonal": lambda: jnp.where(own, weights, 0).sum(-1),
        "received": lambda: weights.sum(-1),
        "map": lambda: (probs.astype(jnp.float32) * (inverse / k.shape[1])[..., None]).sum(1),
        "map_max": lambda: (probs.astype(jnp.float32) * inverse[..., None]).max(1),
    }
    return {name: compute[name]() for name in signals}


def _length(x: Float32[Array, "*rows D"]) -> Float32[Array, "*rows"]:
    """The Euclidean length over the last axis; its gradient is 0, and not NaN, where `x` is."""
    square = (x**2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
