"""Similarity and distance of tokens, and bipartite matching.

Products are float32 at full precision, because rounding them changes the ranking of tokens.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

from tcvit_jax.ops.attention import Signals
from tcvit_jax.tokens import Tokens


def normalize_rows(x: Float[Array, "*rows D"]) -> Float32[Array, "*rows D"]:
    """Return the rows of `x [..., D]` scaled to Euclidean norm 1, in float32; a zero row stays zero."""
    x = x.astype(jnp.float32)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)


def cosine(a: Float[Array, "B I D"], b: Float[Array, "B J D"]) -> Float32[Array, "B I J"]:
    """Return the cosine similarity of all pairs of rows; it is 0 if one of them is zero.

    Args:
        a: `[B, I, D]`.
        b: `[B, J, D]`.

    Returns:
        `[B, I, J]` float32.
    """
    return jnp.einsum("bid,bjd->bij", normalize_rows(a), normalize_rows(b), precision="highest")


def distance(a: Float[Array, "B I D"], b: Float[Array, "B J D"]) -> Float32[Array, "B I J"]:
    """Return the Euclidean distance of all pairs of rows.

    Args:
        a: `[B, I, D]`.
        b: `[B, J, D]`.

    Returns:
        `[B, I, J]` float32.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    product = jnp.einsum("bid,bjd->bij", a, b, precision="highest")
    square = (a**2).sum(-1)[:, :, None] + (b**2).sum(-1)[:, None, :] - 2 * product
    # Between equal rows, rounding may leave a negative number.
    return jnp.sqrt(jnp.maximum(square, 0))


def pairwise_distances(x: Float[Array, "B N D"]) -> Float32[Array, "B N N"]:
    """Return the Euclidean distances between the rows of `x [B, N, D]`, `[B, N, N]` float32.

    The result is exactly symmetric, and exactly 0 on the diagonal. Methods that compare distances or densities need
    equal values for two tokens that are each other's nearest neighbor.
    """
    raw = distance(x, x)
    is_self = jnp.eye(x.shape[1], dtype=bool)[None]
    return jnp.where(is_self, 0, (raw + jnp.swapaxes(raw, 1, 2)) / 2)


def patch_keys(tokens: Tokens, signals: Signals) -> Float32[Array, "B N d"]:
    """Return the keys of the patch tokens averaged over heads, `[B, N, d]` float32, with gradients stopped."""
    assert signals.keys is not None
    return jax.lax.stop_gradient(signals.keys[:, tokens.prefix :])


def first_half(position: Int[Array, "B N"], prefix: int) -> Bool[Array, "B N"]:
    """Return the mask of the patch tokens in the first half of a bipartite matching.

    Positions alternate between the halves, prefix tokens included. The first position, that of a class token, is in the
    first half.

    Args:
        position: `[B, N]` position of each patch token among the patch tokens.
        prefix: The number of prefix tokens.

    Returns:
        `[B, N]` bool.
    """
    return (position + prefix) % 2 == 0


def bipartite_score(
    similarity: Float32[Array, "B N N"], first: Bool[Array, "B N"], second: Bool[Array, "B N"]
) -> Float32[Array, "B N"]:
    """Return the score of bipartite soft matching: minus the highest similarity to a token of the second half.

    Tokens of the second half score infinity. Tokens of neither half score above all tokens of the first half.

    Args:
        similarity: `[B, N, N]`, at most 1.
        first: `[B, N]` bool, the first half.
        second: `[B, N]` bool, the second half, disjoint from the first.

    Returns:
        `[B, N]` float32; the highest scores are kept.
    """
    best = jnp.where(second[:, None, :], similarity, -jnp.inf).max(-1)
    return jnp.where(second, jnp.inf, jnp.where(first, -best, 2.0))
