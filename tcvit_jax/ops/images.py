"""Image preprocessing on the device."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, UInt8


def normalize(
    images: UInt8[Array | np.ndarray, "B height width C"], mean: Sequence[float], std: Sequence[float]
) -> Float32[Array, "B height width C"]:
    """Return `(images / 255 - mean) / std` per channel.

    Args:
        images: `[B, H, W, C]` uint8.
        mean: The mean of each channel, for values in 0..1.
        std: The standard deviation of each channel, for values in 0..1.

    Returns:
        `[B, H, W, C]` float32.
    """
    shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return (jnp.asarray(images).astype(jnp.float32) / 255 - shift) / scale
