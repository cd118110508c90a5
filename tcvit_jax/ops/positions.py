"""Position embeddings on another grid."""

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
    """Position embeddings of one grid for another one, by default as timm does: bicubic (a = -1/2), antialiased.

    Args:
        positions: `[1, prefix + height * width, D]`, of the prefix tokens, which stay as they are, and of `grid`.
        prefix: prefix tokens that have a position.
        grid: patches in height and width.
        target: those of the result.
        method, antialias: of `jax.image.resize`.

    Returns:
        `[1, prefix + target height * target width, D]` float32.
    """
    wide = jnp.asarray(positions, jnp.float32)
    width = wide.shape[-1]
    patches = wide[:, prefix:].reshape(1, *grid, width)
    patches = jax.image.resize(patches, (1, *target, width), method, antialias=antialias)
    return jnp.concatenate([wide[:, :prefix], patches.reshape(1, -1, width)], axis=1)
