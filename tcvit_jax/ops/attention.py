"""Multi-head attention that returns signals: the statistics of the attention map that a reducer reads.

The softmax is normalized after the product with the values (`e = exp(s - max)`, `l = rowsum(e)`), on an explicit
`[B, H, T, d]` layout. On a CPU this is several times faster than the textbook order. Each statistic reduces the map
over heads or tokens. It is computed from the stored map or from a recomputed one, depending on the platform; the map of
all heads is never returned.
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
from tcvit_jax.ops.ranking import kth_smallest

SIGNALS = ("class_row", "diagonal", "received", "value_norm", "keys", "map", "map_max")
# The statistics that a block computes from the tokens after attention.
BLOCK_SIGNALS = ("mlp_norm",)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Signals:
    """Statistics of one block, float32; `None` if not requested. Rows of the attention map are queries, columns keys.

    Attributes:
        class_row: `[B, H, T]`, the attention of the class token to each token; with a distillation token, the mean of
            both rows.
        diagonal: `[B, H, T]`, the attention of each token to itself.
        received: `[B, H, T]`, the attention that each token receives: column sums over all queries.
        value_norm: `[B, H, T]`, the Euclidean norm of each value.
        keys: `[B, T, d]`, the keys averaged over heads; those before the rotation in models with rotary positions.
        map: `[B, T, T]`, the map averaged over heads.
        map_max: `[B, T, T]`, the maximum of the map over heads; rows sum to more than 1.
        mlp_norm: `[B, T]`, the Euclidean norm of what the MLP of the block would add to each token after attention. Not
            computed by `attention` but by the block, without dropout.
    """

    class_row: Float32[Array, "B H T"] | None = None
    diagonal: Float32[Array, "B H T"] | None = None
    received: Float32[Array, "B H T"] | None = None
    value_norm: Float32[Array, "B H T"] | None = None
    keys: Float32[Array, "B T d"] | None = None
    map: Float32[Array, "B T T"] | None = None
    map_max: Float32[Array, "B T T"] | None = None
    mlp_norm: Float32[Array, "B T"] | None = None


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
    content_keys: Float[Array, "B H T d"] | None = None,
) -> tuple[Float[Array, "B H _ d"], Signals]:
    """Compute scaled dot-product attention; scores and softmax are float32 regardless of the dtype of the inputs.

    Args:
        q: `[B, H, T, d]` queries, or fewer rows if signals and sparsification do not need the others.
        k: `[B, H, T, d]` keys.
        v: `[B, H, T, d]` values.
        key_bias: `[B, T]` added to all scores of a key, e.g. `log(size)` (proportional attention); None for 0.
        signals: Names from `SIGNALS`.
        class_tokens: The number of leading queries that `class_row` averages.
        keep_fraction: The fraction of the entries of the map to keep, 1 for all (see `sparsify`). Signals are computed
            from the sparsified map.
        num_queries: Return the outputs of the first `num_queries` queries only; None for all.
        has_mask: Whether `key_bias` may contain -inf.
        content_keys: `[B, H, T, d]` keys for the signal `keys`, such as those before a rotation by positions; None for
            `k`.

    Returns:
        The outputs `[B, H, T or num_queries, d]` in the dtype of `v`, and the `Signals`.
    """
    q = q * q.shape[-1] ** -0.5
    weight = None if key_bias is None else jnp.exp(key_bias)
    mask = jnp.isneginf(key_bias) if has_mask and key_bias is not None else None
    e = unnormalized_weights(q, k, weight, mask)
    if keep_fraction < 1:
        # Entries are compared across rows, so they are normalized first.
        e = sparsify(e / e.sum(-1, keepdims=True), keep_fraction)

    def outputs(e: Float32[Array, "B H Q T"]) -> Float[Array, "B H _ d"]:
        e = e[:, :, :num_queries]
        out = jnp.einsum("bhqk,bhkd->bhqd", e.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (out if keep_fraction < 1 else out * (1 / e.sum(-1))[..., None]).astype(v.dtype)

    def with_stored_map(q: Array, k: Array, e: Array, weight: Array | None) -> tuple[Array, dict[str, Array]]:
        # A few rows are cheaper to compute from queries and keys than from the map, which need not be stored then.
        row_names = () if keep_fraction < 1 else tuple(name for name in map_signals if name == "class_row")
        stored_names = [name for name in map_signals if name not in row_names]
        inverse = jnp.ones(e.shape[:3], jnp.float32) if keep_fraction < 1 else 1 / e.sum(-1)
        statistics = statistics_of_map(e, inverse, stored_names, class_tokens)
        statistics |= {name: class_row(q[:, :, :class_tokens], k, weight, mask) for name in row_names}
        # The barrier keeps the value product and the row sums fused. On a CPU the fused operation takes two thirds of
        # the time of two separate ones.
        return outputs(jax.lax.optimization_barrier(e) if stored_names else e), statistics

    def with_recomputed_map(q: Array, k: Array, e: Array, weight: Array | None) -> tuple[Array, dict[str, Array]]:
        probs = e.astype(v.dtype)
        return outputs(e), recomputed_statistics(q, k, weight, probs, 1 / e.sum(-1), map_signals, class_tokens)

    other_signals: dict[str, Callable[[], Array]] = {
        "value_norm": lambda: row_norm(v.astype(jnp.float32)),
        "keys": lambda: (k if content_keys is None else content_keys).astype(jnp.float32).mean(1),
    }
    map_signals = [name for name in signals if name not in other_signals]
    if not map_signals:
        out, statistics = outputs(e), {}
    elif keep_fraction < 1 or has_mask:
        out, statistics = with_stored_map(q, k, e, weight)
    else:
        out, statistics = by_platform(with_recomputed_map, with_stored_map, q, k, e, weight)
    return out, Signals(**statistics, **{name: get() for name, get in other_signals.items() if name in signals})


def size_bias(size: Float32[Array, "B N"], uses_size_bias: bool, has_padding: bool) -> Float32[Array, "B N"]:
    """Return the bias that is added to the attention scores of each patch token as a key.

    Args:
        size: `[B, N]` sizes.
        uses_size_bias: Whether to add `log(size)`.
        has_padding: Whether to mask tokens of size 0 with -inf.

    Returns:
        `[B, N]` float32.
    """
    bias = jnp.log(jnp.where(size > 0, size, 1)) if uses_size_bias else jnp.zeros_like(size)
    return jnp.where(size > 0, bias, -jnp.inf) if has_padding else bias


def unnormalized_weights(
    q: Float[Array, "B H Q d"],
    k: Float[Array, "B H T d"],
    weight: Float[Array, "B T"] | None,
    mask: Bool[Array, "B T"] | None,
) -> Float32[Array, "B H Q T"]:
    """Return the attention map before its rows are divided by their sums.

    Args:
        q: `[B, H, Q, d]` queries, already scaled by `d ** -0.5`.
        k: `[B, H, T, d]` keys.
        weight: `[B, T]`, a factor on all entries of a key; None for 1. The factor is applied after the exponential. As
            a term before it, it would keep the TPU compiler from recognizing the softmax, and scores would be stored.
        mask: `[B, T]` bool, True for keys that are excluded from attention; None for none.

    Returns:
        `[B, H, Q, T]` float32.
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
    """Return the mean row of the attention map of a few queries.

    Args:
        q: `[B, H, Q, d]` queries, already scaled by `d ** -0.5`.
        k: `[B, H, T, d]` keys.
        weight: As in `unnormalized_weights`.
        mask: As in `unnormalized_weights`.

    Returns:
        `[B, H, T]` float32.
    """
    e = unnormalized_weights(q, k, weight, mask)
    return (e / e.sum(-1, keepdims=True)).mean(2)


def sparsify(weights: Float32[Array, "B H Q T"], keep_fraction: float) -> Float32[Array, "B H Q T"]:
    """Set the smallest entries of each map to 0, per image and head; rows are not normalized again.

    Entries below the `k`-th smallest are dropped, where `k = int(T * T * (1 - keep_fraction))` in double precision, as
    in the official implementation (GTP-ViT, section 3). In double precision `1 - 0.9` is slightly less than 0.1, so a
    map of 190 tokens at 0.9 loses 3,608 entries instead of 3,609. If `k` is 0, all entries are kept.

    Args:
        weights: `[B, H, T, T]` float32, non-negative.
        keep_fraction: The fraction of entries to keep, `0 < keep_fraction <= 1`.

    Returns:
        An array of the shape of `weights`.
    """
    entries = weights.shape[-2] * weights.shape[-1]
    rank = int(entries * (1 - keep_fraction))
    if rank == 0:
        return weights
    flat = jax.lax.stop_gradient(weights).reshape(*weights.shape[:-2], entries)
    return jnp.where(weights < kth_smallest(flat, rank)[..., None, None], 0, weights)


def statistics_of_map(
    e: Float32[Array, "B H Q T"], inverse: Float32[Array, "B H Q"], signals: Collection[str], class_tokens: int
) -> dict[str, Float32[Array, "B ..."]]:
    """Return signals of a stored, unnormalized attention map.

    Args:
        e: `[B, H, T, T]`, from `unnormalized_weights`.
        inverse: `[B, H, T]`, the factor that normalizes each row of `e`.
        signals: Names of signals of the map.
        class_tokens: The number of leading rows that `class_row` averages.

    Returns:
        The signals by name.
    """
    heads = range(e.shape[1])

    # Heads are normalized one by one, so that the map of all heads is read once and not written again.
    def weights(head: int) -> Float32[Array, "B Q T"]:
        return e[:, head] * inverse[:, head, :, None]

    compute = {
        "class_row": lambda: (e[:, :, :class_tokens] * inverse[:, :, :class_tokens, None]).mean(2),
        "diagonal": lambda: jnp.diagonal(e, axis1=-2, axis2=-1) * inverse,
        # On a CPU, a vector-matrix product is faster than a weighted sum over the map.
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
    """Return signals of an attention map, most of them from a recomputed map because products are cheap on a TPU.

    Statistics over heads read `probs`, the map that weights the values, in the dtype of the values. All others are sums
    over the queries of a second map in float32, with its own maximum, which is never stored. The rows of the second map
    are keys, so that the compiler sums the output of the matrix unit directly. If these sums read the map that weights
    the values, the compiler would store it.

    Args:
        q: `[B, H, T, d]` queries, already scaled by `d ** -0.5`.
        k: `[B, H, T, d]` keys.
        weight: `[B, T]`, a factor on all entries of a key; None for 1.
        probs: `[B, H, T, T]`, the unnormalized map in the dtype of the values.
        inverse: `[B, H, T]`, the factor that normalizes each row of `probs`.
        signals: Names of signals of the map.
        class_tokens: The number of leading queries that `class_row` averages.

    Returns:
        The signals by name.
    """
    scores = jnp.einsum("bhkd,bhqd->bhkq", k, q, preferred_element_type=jnp.float32)
    shift = jax.lax.stop_gradient(scores.max(-2, keepdims=True))
    weights = jnp.exp(scores - shift) * inverse[:, :, None, :]
    if weight is not None:
        weights *= weight[:, None, :, None]
    key, query = (jax.lax.broadcasted_iota(jnp.int32, (1, 1, k.shape[2], k.shape[2]), axis) for axis in (2, 3))
    is_diagonal, is_class = key == query, query < class_tokens
    compute = {
        # This is a sum over all queries, because slicing the queries makes the compiler store the scores.
        "class_row": lambda: jnp.where(is_class, weights, 0).sum(-1) / class_tokens,
        "diagonal": lambda: jnp.where(is_diagonal, weights, 0).sum(-1),
        "received": lambda: weights.sum(-1),
        "map": lambda: (probs.astype(jnp.float32) * (inverse / k.shape[1])[..., None]).sum(1),
        "map_max": lambda: (probs.astype(jnp.float32) * inverse[..., None]).max(1),
    }
    return {name: compute[name]() for name in signals}


def row_norm(x: Float32[Array, "*rows D"]) -> Float32[Array, "*rows"]:
    """Return the Euclidean norm over the last axis, with gradient 0 instead of NaN at zero."""
    square = (x**2).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
