"""Images on the device."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, UInt8


def normalize(
    images: UInt8[Array, "B height width C"], mean: Sequence[float], std: Sequence[float]
) -> Float32[Array, "B height width C"]:
    """uint8 `[B, H, W, C]` to float32, `(image / 255 - mean) / std` per channel."""
    shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return (images.astype(jnp.float32) / 255 - shift) / scale
