"""Graphs over the patch grid: spatial and semantic neighbors (GTP-ViT, section 3).

An adjacency matrix is boolean `[..., N0, N0]` without self-loops; rows are receivers. It is normalized by row degrees,
`A[i, j] / sqrt(deg_i * deg_j)`. The normalization is applied by broadcasting, and only to the entries a plan reads.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

from tcvit_jax.errors import out_of_range
from tcvit_jax.ops.gather import take_block, take_rows
from tcvit_jax.ops.matching import cosine
from tcvit_jax.ops.ranking import largest_mask


def spatial_adjacency(grid: tuple[int, int]) -> Bool[np.ndarray, "N0 N0"]:
    """Return the adjacency of the eight spatial neighbors of each patch.

    Args:
        grid: The height and width of the patch grid; patches are in raster order.

    Returns:
        `[N0, N0]` bool.
    """
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    distance = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column))
    return distance == 1


def semantic_adjacency(x: Float[Array, "B N D"], neighbors: int) -> Bool[Array, "B N N"]:
    """Return the adjacency of the nearest neighbors of each token by cosine similarity.

    A token is not its own neighbor, and ties go to the lower index. Cosines are computed in float32 at full precision
    regardless of the dtype of `x`. An all-zero token has cosine 0 with every other token.

    Args:
        x: `[B, N, D]` features.
        neighbors: The number of neighbors per token.

    Returns:
        `[B, N, N]` bool.

    Raises:
        InputError: There are fewer than `neighbors` other tokens.
    """
    tokens = x.shape[1]
    check_neighbors(neighbors, tokens)
    is_self = jnp.eye(tokens, dtype=bool)[None]
    similarity = jnp.where(is_self, -jnp.inf, cosine(x, x))
    return jnp.swapaxes(largest_mask(similarity, neighbors, axis=-2) & ~is_self, 1, 2)


def check_neighbors(neighbors: int, tokens: int) -> None:
    """Check the number of neighbors per token.

    Args:
        neighbors: The number of neighbors.
        tokens: The number of patch tokens.

    Raises:
        InputError: `neighbors` is negative, or there are fewer than `neighbors` other tokens.
    """
    if not 0 <= neighbors < tokens:
        condition = f"between 0 and {tokens - 1}"
        raise out_of_range("neighbors", neighbors, condition, f"there are {tokens} patch tokens")


def inverse_root_degree(adjacency: Bool[Array, "B N0 N0"]) -> Float32[Array, "B N0"]:
    """Return `deg ** -0.5` of each row, `[B, N0]` float32; 1 for a token without neighbors, whose entries are all 0."""
    degree = adjacency.sum(-1)
    return jax.lax.rsqrt(jnp.maximum(degree, 1).astype(jnp.float32))


def normalized_block(
    adjacency: Bool[Array, "B N0 N0"],
    root: Float32[Array, "B N0"],
    rows: Int[Array, "B K"],
    columns: Int[Array, "B R"],
) -> Float32[Array, "B K R"]:
    """Return a sub-matrix of the normalized adjacency.

    Later blocks read sub-matrices of the first graph; degrees are not recomputed when tokens are removed.

    Args:
        adjacency: `[B, N0, N0]` bool.
        root: `[B, N0]`, from `inverse_root_degree`.
        rows: `[B, K]` original patch indices of the receivers.
        columns: `[B, R]` original patch indices of the sources.

    Returns:
        `[B, K, R]` float32.
    """
    block = take_block(adjacency, rows, columns).astype(jnp.float32)
    return block * take_rows(root, rows)[:, :, None] * take_rows(root, columns)[:, None, :]
