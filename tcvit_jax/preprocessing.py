"""Preprocessing of photos to the input of a model, pixel for pixel as in evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax import Array
from jax.core import Tracer
from PIL import Image

from tcvit_jax import files, models
from tcvit_jax.data import EvalTransform
from tcvit_jax.data.sources.folder import read_image
from tcvit_jax.errors import first_line, invalid, kind_of
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.ops.images import normalize

Photo = str | os.PathLike[str] | Image.Image | np.ndarray | Array
_EXPECTED = "expected a path, a PIL image, a uint8 array or a sequence of them"


def preprocess(images: Photo | Sequence[Photo], meta: Mapping[str, Any] | ViT) -> Array:
    """Return what a model takes: decoded, resized, cropped and normalized images, as in evaluation.

    Files are decoded as those of an image folder: gray, palette, transparent and CMYK images become RGB, and EXIF
    orientation is ignored. A model of one channel gets ITU-R 601 gray.

    Args:
        images: The path of an image file, a PIL image, a uint8 array `[H, W]`, `[H, W, C]` or `[B, H, W, C]` with `C`
            of 1, 3 or 4 and values in 0..255, or a sequence of these, whose sizes may differ.
        meta: The metadata of a checkpoint, the third result of `tc.load`, whose preprocessing applies; or a model, for
            the preprocessing of the published weights of its name, if it has any. Both determine the size.

    Returns:
        `[B, H, W, C]` float32, with a batch axis of 1 for a single image.

    Raises:
        InputError: An image is of another type, dtype or shape, or cannot be read; or the metadata are invalid or have
            no preprocessing.
    """
    model, preprocessing = _model_and_preprocessing(meta)
    preprocessing.check_channels(model.in_chans)
    transform = EvalTransform(model.img_size, model.in_chans, *preprocessing.geometry)
    pixels = np.zeros((0, *model.img_size, model.in_chans), np.uint8)
    if batch := [transform(photo) for photo in _decode(images)]:
        pixels = np.stack(batch)
    return normalize(pixels, preprocessing.mean, preprocessing.std)


def _model_and_preprocessing(meta: object) -> tuple[ViT, Preprocessing]:
    if isinstance(meta, ViT):
        return meta, models.preprocessing(meta.variant)
    hint = "pass the third result of tc.load, or a model"
    if not isinstance(meta, Mapping):
        raise invalid("meta", f"expected the metadata of a checkpoint, got {kind_of(meta)}", hint)
    if "model" not in meta:
        raise invalid("meta", "'model' not found", hint)
    if "preprocessing" not in meta:
        raise invalid("meta", "no preprocessing", "load the model from a source with preprocessor_config.json")
    return models.from_config(meta["model"]), Preprocessing.from_config(meta["preprocessing"])


def _decode(images: object) -> Iterator[Image.Image]:
    """Yield every image in mode RGB."""
    if isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray):
        for index, image in enumerate(images):
            yield from _decode_one(image, f"images[{index}]")
    else:
        yield from _decode_one(images, "images")


def _decode_one(value: object, name: str) -> Iterator[Image.Image]:
    """Yield the images of an element of a sequence: several only for a batch."""
    if isinstance(value, str | os.PathLike):
        path = files.expand(os.fspath(value), name)
        files.check_regular(path, "an image")
        yield read_image(path)
    elif isinstance(value, Image.Image):
        yield _to_rgb(value, name)
    elif isinstance(value, np.ndarray | Array):
        for array in _split_batch(value, name):
            yield _to_rgb(Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array), name)
    else:
        raise invalid(name, f"{_EXPECTED}, got {kind_of(value)}")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return an image in mode RGB, as the decoded files of an image folder."""
    if image.mode[0] in "IF":
        raise invalid(name, f"expected at most 8 bits per channel, got mode {image.mode}")
    if min(image.size) < 1:
        raise invalid(name, f"expected at least one pixel, got {image.width} x {image.height}")
    try:
        # Pillow warns if a palette with transparency is converted to RGB directly.
        has_transparent_palette = image.mode == "P" and "transparency" in image.info
        result = (image.convert("RGBA") if has_transparent_palette else image).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types for an opened file that is damaged
        raise invalid(name, f"cannot read image: {first_line(error)}") from error
    # Otherwise Pillow would apply a transparent color to every later conversion of the image.
    result.info = {}
    return result


def _split_batch(images: np.ndarray | Array, name: str) -> np.ndarray:
    """Return an array of images as uint8 `[B, H, W, C]`."""
    if isinstance(images, Tracer):
        raise invalid(name, "expected an array, got a tracer", "call tc.preprocess outside of jit")
    if images.dtype != np.uint8:
        hint = "normalized images need no preprocessing" if images.dtype.kind == "f" else ""
        raise invalid(name, f"expected uint8 values in 0..255, got {kind_of(images)}", hint)
    array = np.asarray(images)
    array = array[..., None] if array.ndim == 2 else array
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        hint = "move the channels to the last axis" if images.shape[-3:-2] in ((1,), (3,)) else ""
        expected = "uint8 [H, W], [H, W, C] or [B, H, W, C] with C of 1, 3 or 4"
        raise invalid(name, f"expected {expected}, got {kind_of(images)}", hint)
    if 0 in array.shape[1:3]:
        raise invalid(name, f"expected at least one pixel, got {kind_of(images)}")
    return array
