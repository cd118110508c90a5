"""Image preprocessing on the device."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, UInt8

from tcvit_jax.errors import invalid, kind_of, out_of_range


def normalize(
    images: Array | np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> Float32[Array, "B height width C"]:
    """Return `(images / 255 - mean) / std` per channel.

    Args:
        images: `[B, H, W, C]` uint8.
        mean: The mean of each channel, for values in 0..1.
        std: The standard deviation of each channel, for values in 0..1.

    Returns:
        `[B, H, W, C]` float32.

    Raises:
        InputError: The images are not a uint8 array of four dimensions, or there is not one value per channel.
    """
    if not isinstance(images, Array | np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise invalid("images", f"expected uint8 [B, H, W, C], got {kind_of(images)}")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != images.shape[-1]:
            raise out_of_range(name, tuple(values), f"one value for each of {images.shape[-1]} channels")
    return _normalize(images, tuple(mean), tuple(std))


# Compiled outside of `jit` too: XLA multiplies by the reciprocals of constants, which can change the last bit.
@partial(jax.jit, static_argnames=("mean", "std"), inline=True)
def _normalize(
    images: UInt8[Array | np.ndarray, "B height width C"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float32[Array, "B height width C"]:
    shift, scale = (np.asarray(value, np.float32)[None, None, None] for value in (mean, std))
    return (jnp.asarray(images).astype(jnp.float32) / 255 - shift) / scale
