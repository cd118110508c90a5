"""Which tokens stay: a stable descending order in float32, whatever the compute dtype."""

import jax
import jax.numpy as jnp
from jax import Array


def split_by_score(score: Array, keep: int) -> tuple[Array, Array]:
    """The `keep` highest-scoring rows and the others, each in ascending order of their index.

    Equal scores go to the lower index first. `argsort`, not `top_k`: XLA's partitioner replicates the latter,
    which would gather the batch of every device before each block.

    Args:
        score: `[B, N]`, higher stays.
        keep: static number of rows to keep, `1 <= keep <= N`.

    Returns:
        `kept [B, keep]` and `removed [B, N - keep]`, int32.
    """
    # Selection is discrete: to the gradient it is a constant.
    score = jax.lax.stop_gradient(score).astype(jnp.float32)
    order = jnp.argsort(-score, axis=-1, stable=True).astype(jnp.int32)
    return jnp.sort(order[:, :keep], axis=-1), jnp.sort(order[:, keep:], axis=-1)


def places(score: Array) -> Array:
    """The place of each entry of `score [B, N]` in its row, the highest first, from 0: int32; ties to the lower index.

    Counted, not sorted: there is no inverse permutation to scatter.
    """
    score = jax.lax.stop_gradient(score).astype(jnp.float32)
    index = jnp.arange(score.shape[-1])
    mine, others = score[:, :, None], score[:, None, :]
    before = (others > mine) | ((others == mine) & (index < index[:, None]))
    return before.sum(-1, dtype=jnp.int32)


def largest(x: Array, count: int) -> Array:
    """Which are the `count` largest entries of each row, bool `[..., N]`; ties to the lower index.

    A few passes over the rows instead of a sort of each: eight of them take a thirtieth of its time on a CPU. A maximum
    and where it is are two passes, which are vectorised there, and `argmax` is not.

    Args:
        x: `[..., N]` float; an entry of -inf is marked too, and not counted.
        count: static, at most as many as there are other entries.
    """
    columns = jnp.arange(x.shape[-1])
    for _ in range(count):
        first = jnp.where(x == x.max(-1, keepdims=True), columns, x.shape[-1]).min(-1, keepdims=True)
        x = jnp.where(columns == first, -jnp.inf, x)
    return jnp.isneginf(x)


def smallest(x: Array, rank: int) -> Array:
    """The `rank`-th smallest entry of each row, `[...]`, counted from 1.

    Found bit by bit: floats that are not negative are in the order of their bits, so that 31 passes which count
    give the exact entry, where a sort of a whole attention map takes ten times as long.

    Args:
        x: `[..., N]` float32, no entry negative or NaN.
        rank: static, `1 <= rank <= N`.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)

    def narrow(step: Array, low: Array) -> Array:
        # The largest number that fewer than `rank` entries lie below.
        middle = low | (1 << (30 - step))
        return jnp.where((bits < middle[..., None]).sum(-1) < rank, middle, low)

    low = jax.lax.fori_loop(0, 31, narrow, jnp.zeros(x.shape[:-1], jnp.int32))
    return jax.lax.bitcast_convert_type(low, jnp.float32)


def standing(score: Array) -> Array:
    """How many of its row each entry of `score [B, N]` is above, equal ones counted half: exact in float32."""
    mine, others = score[:, :, None], score[:, None, :]
    return (others < mine).sum(-1) + 0.5 * ((others == mine).sum(-1) - 1)
