"""Similarities of unit-length features, block by block, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

# The similarities of a block of queries: 256 MB in float32.
_MAX_SIMILARITIES = 2**26
_MAX_QUERIES = 1024


def similarities(queries: Array, candidates: Array) -> Array:
    """Return the cosines of unit-length features.

    Args:
        queries: `[Q, D]` float32.
        candidates: `[N, D]` float32.

    Returns:
        `[Q, N]` float32, with products in full precision.
    """
    return jnp.einsum("qd,nd->qn", queries, candidates, precision="highest")


def map_queries(
    function: Callable[[Array, Array, Array], Array], queries: np.ndarray, labels: np.ndarray, candidates: int
) -> np.ndarray:
    """Call a compiled function on blocks of queries of one size.

    Args:
        function: A function of queries `[Q, D]`, their labels `[Q]` and their indices `[Q]` int32, which returns one
            value for each.
        queries: `[images, D]` float32.
        labels: `[images]` int32.
        candidates: The number of candidates of each query, which determines the size of a block.

    Returns:
        The values of all queries.
    """
    count = len(queries)
    block = max(1, min(count, _MAX_QUERIES, _MAX_SIMILARITIES // max(1, candidates)))
    results: list[np.ndarray] = []
    for start in range(0, count, block):
        # The last block repeats queries, so that it is not compiled again.
        indices = np.minimum(np.arange(start, start + block), count - 1)
        values = function(
            jnp.asarray(queries[indices]), jnp.asarray(labels[indices]), jnp.asarray(indices, jnp.int32)
        )  # fmt: skip
        results.append(np.asarray(values)[: count - start])
    return np.concatenate(results)
