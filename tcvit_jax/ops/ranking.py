"""Which tokens stay: a stable descending order in float32, whatever the compute dtype."""

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
    order = jnp.argsort(-score.astype(jnp.float32), axis=-1, stable=True).astype(jnp.int32)
    return jnp.sort(order[:, :keep], axis=-1), jnp.sort(order[:, keep:], axis=-1)
