"""Kernels of patch embeddings for another number of channels or another patch size, as timm adapts them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.convert.problems import InvalidTensorError

# The matrix for one size and another has the square of both sizes as its sides.
MAX_PATCH = 64


def adapt_patch_embed(kernel: np.ndarray, channels: int, patch_size: tuple[int, int]) -> np.ndarray:
    """Adapt a kernel to another number of channels and another patch size.

    Args:
        kernel: `[D, C, h, w]` floating point.
        channels: New number of channels.
        patch_size: New height and width.

    Returns:
        `[D, channels, height, width]` float32.

    Raises:
        InvalidTensorError: The kernel does not have three channels, and `channels` is another number; or a patch is too
            large.
    """
    return adapt_input_conv(resample_patch_embed(kernel, patch_size), channels)


def adapt_input_conv(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt a kernel for three channels to another number of channels.

    For one channel this is the sum over the three, which gives the same features for a gray image. For others, the
    three channels are repeated and scaled to the same sum.

    Args:
        kernel: `[D, 3, h, w]`, or any kernel that has `channels` channels.
        channels: New number of channels.

    Returns:
        `[D, channels, h, w]` float32.

    Raises:
        InvalidTensorError: The kernel does not have three channels, and `channels` is another number.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.shape[1] == channels:
        return kernel
    if kernel.shape[1] != 3:
        raise InvalidTensorError(
            f"cannot be adapted to {channels} channels, because it has {kernel.shape[1]} and not 3"
        )
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    repeated = np.tile(kernel, (1, -(-channels // 3), 1, 1))[:, :channels]
    return repeated * np.float32(3 / channels)


def resample_patch_embed(kernel: np.ndarray, patch_size: tuple[int, int]) -> np.ndarray:
    """Resample a kernel to another patch size.

    The new kernel gives for a resized patch what the kernel gives for the patch, as closely as possible: it is the
    product of the kernel and the pseudoinverse of the matrix that resizes patches (bicubic, antialiased).

    Args:
        kernel: `[D, C, h, w]` floating point.
        patch_size: New height and width.

    Returns:
        `[D, C, height, width]` float32.

    Raises:
        InvalidTensorError: A patch is larger than `MAX_PATCH`.
    """
    kernel = np.asarray(kernel, np.float32)
    height, width = kernel.shape[2:]
    if (height, width) == patch_size:
        return kernel
    if max(height, width, *patch_size) > MAX_PATCH:
        raise InvalidTensorError(f"cannot be resampled, because patches are larger than {MAX_PATCH}x{MAX_PATCH}")
    basis = jnp.eye(height * width, dtype=jnp.float32).reshape(-1, height, width)
    resized = jax.image.resize(basis, (height * width, *patch_size), "cubic", antialias=True)
    matrix = np.asarray(resized, np.float32).reshape(height * width, -1).T
    inverse = np.linalg.pinv(matrix, rcond=float(np.finfo(np.float32).eps) * max(matrix.shape))
    return (kernel.reshape(*kernel.shape[:2], -1) @ inverse).reshape(*kernel.shape[:2], *patch_size)
