"""Which tokens stay: a stable descending order in float32, whatever the compute dtype."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int32


def split_by_score(
    score: Float[Array, "B N"], keep: int
) -> tuple[Int32[Array, "B {keep}"], Int32[Array, "B N-{keep}"]]:
    """The `keep` highest-scoring rows and the others, each in ascending order of their index.

    Equal scores go to the lower index first. `argsort`, not `top_k`: XLA's partitioner replicates the latter,
    which would gather the batch of every device before each block.

    Args:
        score: `[B, N]`, higher stays; NaN is the lowest.
        keep: static number of rows to keep, `1 <= keep <= N`.

    Returns:
        `kept [B, keep]` and `removed [B, N - keep]`, int32.
    """
    # Selection is discrete: to the gradient it is a constant.
    score = jax.lax.stop_gradient(score).astype(jnp.float32)
    # Sorted and not counted, which a CPU does faster: a compiler may compute a score anew for each comparison and round
    # it differently, so that two tokens have one place.
    order = jnp.argsort(-score, axis=-1, stable=True).astype(jnp.int32)
    return jnp.sort(order[:, :keep], axis=-1), jnp.sort(order[:, keep:], axis=-1)


def ranks(score: Float[Array, "B N"]) -> Int32[Array, "B N"]:
    """The place of each entry of `score [B, N]` in its row, the highest first, from 0: int32; ties to the lower index.

    Counted, not sorted: there is no inverse permutation to scatter. So `score` should come straight out of a sum, a
    maximum or a gather, which compilers do not compute twice (see `split_by_score`).
    """
    score = jax.lax.stop_gradient(score).astype(jnp.float32)
    index = jnp.arange(score.shape[-1])
    mine, others = score[:, :, None], score[:, None, :]
    before = (others > mine) | ((others == mine) & (index < index[:, None]))
    return before.sum(-1, dtype=jnp.int32)


def largest(x: Float[Array, "*shape"], count: int, axis: int = -1) -> Bool[Array, "*shape"]:
    """Which are the `count` largest entries of each row or column of `x`, bool; ties to the lower index.

    A few passes instead of a sort: eight of them take a thirtieth of its time on a CPU, and over columns a fiftieth,
    since a pass over rows is not vectorized there, as `argmax` is not in either direction.

    Args:
        x: `[..., N]` float; an entry of -inf is marked too, and not counted.
        count: static, at most as many as there are other entries.
        axis: -1 for rows, -2 for columns.
    """
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim + axis)
    for _ in range(count):
        first = jnp.where(x == x.max(axis, keepdims=True), index, x.shape[axis]).min(axis, keepdims=True)
        x = jnp.where(index == first, -jnp.inf, x)
    return jnp.isneginf(x)


def smallest(x: Float32[Array, "*rows N"], rank: int) -> Float32[Array, "*rows"]:
    """The `rank`-th smallest entry of each row, `[...]`, counted from 1.

    Found bit by bit: floats that are not negative are in the order of their bits, so that 31 passes which count
    give the exact entry, where a sort of a whole attention map takes ten times as long.

    Args:
        x: `[..., N]` float32, no entry negative or NaN.
        rank: static, `1 <= rank <= N`.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)

    def narrow(step: Int32[Array, ""], low: Int32[Array, "*rows"]) -> Int32[Array, "*rows"]:
        # The largest number that fewer than `rank` entries lie below.
        middle = low | (1 << (30 - step))
        return jnp.where((bits < middle[..., None]).sum(-1) < rank, middle, low)

    low = jax.lax.fori_loop(0, 31, narrow, jnp.zeros(x.shape[:-1], jnp.int32))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def midranks(score: Float[Array, "B N"]) -> Float32[Array, "B N"]:
    """How many of its row each entry of `score [B, N]` is above, equal ones counted half: exact in float32."""
    mine, others = score[:, :, None], score[:, None, :]
    return (others < mine).sum(-1) + 0.5 * ((others == mine).sum(-1) - 1)
