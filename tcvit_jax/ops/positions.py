"""Resampling of position embeddings."""

import jax.image
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32


def resample_positions(
    positions: Float[Array | np.ndarray, "1 {prefix+grid[0]*grid[1]} D"],
    prefix: int,
    grid: tuple[int, int],
    target: tuple[int, int],
    method: str = "cubic",
    antialias: bool = True,
) -> Float32[Array, "1 {prefix+target[0]*target[1]} D"]:
    """Resample position embeddings to another patch grid, by default as timm does: bicubic (a = -1/2), antialiased.

    Args:
        positions: `[1, prefix + height * width, D]`. Embeddings of prefix tokens are not changed.
        prefix: The number of prefix tokens that have a position embedding.
        grid: The height and width of the patch grid of `positions`.
        target: The height and width of the patch grid of the result.
        method: The interpolation method of `jax.image.resize`.
        antialias: Whether `jax.image.resize` applies an antialiasing filter.

    Returns:
        `[1, prefix + target[0] * target[1], D]` float32.
    """
    positions32 = jnp.asarray(positions, jnp.float32)
    width = positions32.shape[-1]
    patches = positions32[:, prefix:].reshape(1, *grid, width)
    patches = jax.image.resize(patches, (1, *target, width), method, antialias=antialias)
    return jnp.concatenate([positions32[:, :prefix], patches.reshape(1, -1, width)], axis=1)
