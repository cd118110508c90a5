"""Checks of the arrays that users pass to a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.errors import invalid, kind_of

_PREPROCESS = "use tc.preprocess(images, meta)"


def check_images(images: object, image_shape: tuple[int, int, int], name: str) -> None:
    """Check that images are a float array, so that no pixel values in 0..255 pass for normalized ones.

    Args:
        images: The images, which may be traced by JAX.
        image_shape: Height, width and channels of one image.
        name: The name of the model, for error messages.

    Raises:
        InputError: The images are no NumPy or JAX array, not floating-point, or of another shape.
    """
    height, width, channels = image_shape
    expected = f"expected float [B, {height}, {width}, {channels}] for {name}, got {kind_of(images)}"
    if not isinstance(images, np.ndarray | jax.Array):
        raise invalid("images", expected, _PREPROCESS)
    images = cast("np.ndarray[Any, Any]", images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise invalid("images", expected, f"normalize them: {_PREPROCESS}")
    if images.ndim != 4 or images.shape[1:] != image_shape:
        raise invalid("images", expected, _shape_hint(images.shape, image_shape))


def _shape_hint(shape: tuple[Any, ...], image_shape: tuple[int, int, int]) -> str:
    height, width, channels = image_shape
    channels_first = (channels, height, width)
    if shape == image_shape:
        return "add the batch axis: images[None]"
    if shape == channels_first:
        return "use images.transpose(1, 2, 0)[None]"
    return "use images.transpose(0, 2, 3, 1)" if shape[1:] == channels_first else ""


def count_blocks(params: Mapping[Any, Any]) -> int:
    """Return the number of blocks in the parameters of a model."""
    return sum(re.fullmatch(r"blocks_\d+", str(name)) is not None for name in params)


def check_no_more_blocks(params: Mapping[Any, Any], depth: int, name: str) -> None:
    """Check that parameters are not those of a deeper model, whose further blocks Flax would ignore.

    Args:
        params: The parameters by name.
        depth: The number of blocks of the model.
        name: The name of the model, for error messages.

    Raises:
        InputError: There are more than `depth` blocks.
    """
    blocks = count_blocks(params)
    if blocks > depth:
        raise invalid(f"variables of {name}", f"expected {depth} blocks, got {blocks}", f"set depth={blocks}")
