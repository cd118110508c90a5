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


def resample_bicubic_torch(
    positions: Float[np.ndarray, "1 {prefix+grid[0]*grid[1]} D"],
    prefix: int,
    grid: tuple[int, int],
    target: tuple[int, int],
) -> Float32[np.ndarray, "1 {prefix+target[0]*target[1]} D"]:
    """Resample position embeddings as torch does without antialiasing: bicubic with a = -3/4 and clamped borders.

    Most models of transformers do so.

    Args:
        positions: `[1, prefix + height * width, D]`. Embeddings of prefix tokens are not changed.
        prefix: The number of prefix tokens that have a position embedding.
        grid: The height and width of the patch grid of `positions`.
        target: The height and width of the patch grid of the result.

    Returns:
        `[1, prefix + target[0] * target[1], D]` float32.
    """
    positions = np.asarray(positions, np.float32)
    patches = positions[0, prefix:].reshape(*grid, -1)
    rows, columns = (_bicubic_matrix(*sizes) for sizes in zip(grid, target, strict=True))
    resized = np.einsum("yh,xw,hwd->yxd", rows, columns, patches, optimize=True).astype(np.float32)
    return np.concatenate([positions[:, :prefix], resized.reshape(1, target[0] * target[1], -1)], axis=1)


def _bicubic_matrix(size: int, target: int) -> Float32[np.ndarray, "target size"]:
    """Return the weights of `size` values for `target` values between them, from Keys' kernel with a = -3/4."""
    a = -0.75
    centers = (np.arange(target) + 0.5) * size / target - 0.5
    start = np.floor(centers).astype(int)
    matrix = np.zeros((target, size))
    for tap in range(-1, 3):
        distance = np.abs(centers - start - tap)
        inner = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        outer = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
        np.add.at(matrix, (np.arange(target), np.clip(start + tap, 0, size - 1)), np.where(distance <= 1, inner, outer))
    return matrix.astype(np.float32)
