"""Rankings of tokens: stable, in float32 regardless of the compute dtype."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int, Int32


def split_by_score(
    score: Float[Array, "B N"], keep: int
) -> tuple[Int32[Array, "B {keep}"], Int32[Array, "B N-{keep}"]]:
    """Split rows into the `keep` with the highest scores and the others, each in ascending order of the index.

    Ties go to the lower index. The function uses `argsort` because XLA's partitioner replicates `top_k`, which would
    gather the batches of all devices before each block.

    Args:
        score: `[B, N]`, the highest are kept; NaN ranks lowest.
        keep: The static number of rows to keep, `1 <= keep <= N`.

    Returns:
        `kept [B, keep]` and `removed [B, N - keep]`, int32.
    """
    # The selection is discrete, so its gradient is zero.
    score = jax.lax.stop_gradient(score).astype(jnp.float32)
    # Counting comparisons would be faster on a CPU than sorting. But a compiler may compute a score again for each
    # comparison and round it differently, so that two tokens get the same rank.
    order = jnp.argsort(-score, axis=-1, stable=True).astype(jnp.int32)
    return jnp.sort(order[:, :keep], axis=-1), jnp.sort(order[:, keep:], axis=-1)


def ranks(score: Float[Array, "B N"]) -> Int32[Array, "B N"]:
    """Return the descending rank of each entry in its row, from 0; ties go to the lower index.

    Ranks are counted rather than sorted, which avoids the scatter of an inverse permutation. `score` should be the
    direct result of a sum, a maximum or a gather, which compilers do not compute twice (see `split_by_score`).

    Args:
        score: `[B, N]`.

    Returns:
        `[B, N]` int32.
    """
    score = jax.lax.stop_gradient(score).astype(jnp.float32)
    index = jnp.arange(score.shape[-1], dtype=jnp.int32)
    entry, other = score[:, :, None], score[:, None, :]
    is_before = (other > entry) | ((other == entry) & (index[None, None, :] < index[None, :, None]))
    return is_before.sum(-1, dtype=jnp.int32)


def largest_mask(x: Float[Array, "*shape"], count: int, axis: int = -1) -> Bool[Array, "*shape"]:
    """Return a mask of the `count` largest entries of each row or column; ties go to the lower index.

    The function makes one pass per entry instead of sorting. On a CPU, eight passes over rows take a thirtieth of the
    time of a sort, and over columns a fiftieth. A CPU vectorizes neither passes over rows nor `argmax` along either
    axis.

    Args:
        x: `[..., N]` float. Entries of -inf are always in the mask and do not count.
        count: Static number of entries, at most the number of entries that are not -inf.
        axis: -1 for rows, -2 for columns.

    Returns:
        A bool array of the shape of `x`.
    """
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim + axis)
    for _ in range(count):
        first = jnp.where(x == x.max(axis, keepdims=True), index, x.shape[axis]).min(axis, keepdims=True)
        x = jnp.where(index == first, -jnp.inf, x)
    return jnp.isneginf(x)


def kth_smallest(x: Float32[Array, "*rows N"], rank: int) -> Float32[Array, "*rows"]:
    """Return the `rank`-th smallest entry of each row, counted from 1.

    Non-negative floats have the order of their bit patterns, so a binary search over the bits finds the exact entry in
    31 counting passes. Sorting an attention map takes ten times as long.

    Args:
        x: `[..., N]` float32, without negative entries and NaN.
        rank: Static, `1 <= rank <= N`.

    Returns:
        `[...]` float32.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)

    def narrow(step: Int[Array, ""], low: Int32[Array, "*rows"]) -> Int32[Array, "*rows"]:
        # The result is the largest number with fewer than `rank` entries below it.
        middle = low | (1 << (30 - step.astype(jnp.int32)))
        return jnp.where((bits < middle[..., None]).sum(-1, dtype=jnp.int32) < rank, middle, low)

    low = jax.lax.fori_loop(0, 31, narrow, jnp.zeros(x.shape[:-1], jnp.int32))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def midranks(score: Float[Array, "B N"]) -> Float32[Array, "B N"]:
    """Return the ascending rank of each entry in its row, from 0; tied entries share their mean rank.

    Args:
        score: `[B, N]`.

    Returns:
        `[B, N]` float32; ranks are exact.
    """
    entry, other = score[:, :, None], score[:, None, :]
    below, equal = (mask.sum(-1, dtype=jnp.float32) for mask in (other < entry, other == entry))
    return below + 0.5 * (equal - 1)
