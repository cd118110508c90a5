"""Images on the device."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array


def normalise(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """uint8 `[B, H, W, C]` to float32, `(image / 255 - mean) / std` per channel."""
    shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return (images.astype(jnp.float32) / 255 - shift) / scale
