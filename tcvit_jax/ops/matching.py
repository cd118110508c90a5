"""Likeness and distance of tokens, float32 at full precision: a rounded product changes which token wins."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

from tcvit_jax.ops.attention import Signals
from tcvit_jax.tokens import Tokens


def unit(x: Float[Array, "*rows D"]) -> Float32[Array, "*rows D"]:
    """Rows of length one, `[..., D]` float32; a row of zeros stays one."""
    x = x.astype(jnp.float32)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)


def cosine(a: Float[Array, "B I D"], b: Float[Array, "B J D"]) -> Float32[Array, "B I J"]:
    """The cosine of every row of `a [B, I, D]` with every row of `b [B, J, D]`, `[B, I, J]`; 0 with a row of zeros."""
    return jnp.einsum("bid,bjd->bij", unit(a), unit(b), precision="highest")


def distance(a: Float[Array, "B I D"], b: Float[Array, "B J D"]) -> Float32[Array, "B I J"]:
    """The Euclidean distance of every row of `a [B, I, D]` from every row of `b [B, J, D]`, `[B, I, J]` float32."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    product = jnp.einsum("bid,bjd->bij", a, b, precision="highest")
    square = (a**2).sum(-1)[:, :, None] + (b**2).sum(-1)[:, None, :] - 2 * product
    # Rounding leaves a little less than nothing between equal rows.
    return jnp.sqrt(jnp.maximum(square, 0))


def distances(x: Float[Array, "B N D"]) -> Float32[Array, "B N N"]:
    """The Euclidean distance of every two rows of `x [B, N, D]`, `[B, N, N]` float32.

    Symmetric to the bit, and 0 from a row to itself: a method that asks which of two is nearer, or denser, must find
    two that are each other's nearest alike.
    """
    found = distance(x, x)
    index = jnp.arange(x.shape[1])
    return jnp.where(index[:, None] == index, 0, (found + jnp.swapaxes(found, 1, 2)) / 2)


def patch_keys(tokens: Tokens, signals: Signals) -> Float32[Array, "B N d"]:
    """The keys of patch tokens averaged over heads, `[B, N, d]`, a constant to the gradient."""
    assert signals.keys is not None
    return jax.lax.stop_gradient(signals.keys[:, tokens.prefix :])


def first_half(position: Int[Array, "B N"], prefix: int) -> Bool[Array, "B N"]:
    """Which patch tokens are in the first half of a bipartite matching, bool `[B, N]`.

    Tokens take turns by their position, prefix included, and the first one, a class token, begins.
    """
    return (position + prefix) % 2 == 0


def bipartite_score(
    similarity: Float32[Array, "B N N"], first: Bool[Array, "B N"], second: Bool[Array, "B N"]
) -> Float32[Array, "B N"]:
    """The score of bipartite soft matching `[B, N]`: minus the best similarity with a token of the second half.

    Tokens of the second half are infinitely good, and those of neither half better than any of the first.

    Args:
        similarity: `[B, N, N]`, at most 1.
        first, second: bool `[B, N]`, disjoint.
    """
    best = jnp.where(second[:, None, :], similarity, -jnp.inf).max(-1)
    return jnp.where(second, jnp.inf, jnp.where(first, -best, 2.0))
