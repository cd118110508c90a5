"""Graphs over the patch grid: spatial neighbors, semantic neighbors, and their union (GTP-ViT, section 3).

An adjacency is boolean `[.., N0, N0]`, row = receiver, without self loops. It is normalized by row degrees,
`A[i, j] / sqrt(deg_i * deg_j)`, by broadcasting and only for the entries that a plan reads.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

from tcvit_jax.errors import InputError
from tcvit_jax.ops.gather import take_block, take_rows
from tcvit_jax.ops.matching import cosine
from tcvit_jax.ops.ranking import largest


def spatial(grid: tuple[int, int]) -> Bool[np.ndarray, "N0 N0"]:
    """`[N0, N0]` bool: the eight neighbors on a `(height, width)` grid in raster order."""
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    distance = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column))
    return distance == 1


def semantic(x: Float[Array, "B N D"], neighbors: int) -> Bool[Array, "B N N"]:
    """`[B, N, N]` bool: each token's `neighbors` nearest others by cosine, never itself; ties to the lower index.

    Cosines are float32 at full precision, whatever the dtype of `x [B, N, D]`. An all-zero token has cosine 0
    with every other.

    Raises:
        InputError: fewer than `neighbors` other tokens exist.
    """
    tokens = x.shape[1]
    check_neighbors(neighbors, tokens)
    own = jnp.eye(tokens, dtype=bool)
    return jnp.swapaxes(largest(jnp.where(own, -jnp.inf, cosine(x, x)), neighbors, axis=-2) & ~own, 1, 2)


def check_neighbors(neighbors: int, tokens: int) -> None:
    """Raise `InputError` where tokens have fewer others than `neighbors`."""
    if not 0 <= neighbors < tokens:
        raise InputError(
            f"neighbors={neighbors} is out of range: {tokens} patch tokens have between 0 and {tokens - 1} others"
        )


def inverse_root_degree(adjacency: Bool[Array, "B N0 N0"]) -> Float32[Array, "B N0"]:
    """`[B, N0]` float32: `deg ** -0.5` of each row, 1 for a token without neighbors (its entries are all 0)."""
    degree = adjacency.sum(-1)
    return jax.lax.rsqrt(jnp.maximum(degree, 1).astype(jnp.float32))


def normalized_block(
    adjacency: Bool[Array, "B N0 N0"],
    root: Float32[Array, "B N0"],
    rows: Int[Array, "B K"],
    columns: Int[Array, "B R"],
) -> Float32[Array, "B K R"]:
    """Entries `[B, K, R]` of the normalized adjacency at the given original patches, float32.

    Sub-matrices of the first graph are all that later blocks need: degrees are not recomputed when tokens leave.

    Args:
        adjacency: `[B, N0, N0]` bool.
        root: `[B, N0]`, from `inverse_root_degree`.
        rows: `[B, K]` original indices of the receivers.
        columns: `[B, R]` original indices of the sources.
    """
    block = take_block(adjacency, rows, columns).astype(jnp.float32)
    return block * take_rows(root, rows)[:, :, None] * take_rows(root, columns)[:, None, :]
