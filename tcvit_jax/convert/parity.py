"""Comparison of a converted model with timm on a photo."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tcvit_jax import pickles
from tcvit_jax.convert.files import WeightFile, to_numpy
from tcvit_jax.convert.formats import wrapper_of
from tcvit_jax.data import EvalTransform
from tcvit_jax.errors import InputError, cannot_read, first_line
from tcvit_jax.files import check_regular
from tcvit_jax.models import ViT
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.models.zoo import full_name
from tcvit_jax.ops.images import normalize

# A photo is not that much longer than wide.
MAX_RATIO = 20
SUFFIX_OF_KIND = {"safetensors": ".safetensors", "npz": ".npz", "torch": ".pth", "checkpoint": ".safetensors"}


class CannotCompareError(Exception):
    """The comparison with timm is not possible. The message is the reason."""


def read_photo(path: str | Path) -> np.ndarray:
    """Return the image of a file, uint8 `[h, w, 3]`.

    Raises:
        InputError: The file is not a regular file, cannot be read as an image, or is too large or too narrow.
    """
    from PIL import Image

    check_regular(path, "an image")
    try:
        with warnings.catch_warnings():
            # Pillow warns of images that decompress to a gigabyte, and refuses larger ones.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            if max(image.size) > MAX_RATIO * min(image.size):
                # timm resizes the whole image before the crop.
                raise cannot_read(path, f"expected a photo, got an image of {image.width}x{image.height} pixels")
            return np.asarray(image.convert("RGB"))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # raised by Pillow or the system
        raise cannot_read(path, f"cannot read the photo: {first_line(error)}") from error


def sample_photo() -> np.ndarray:
    """Return a sample photo of scikit-learn, uint8 `[h, w, 3]`.

    Raises:
        CannotCompareError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise CannotCompareError("requires --photo FILE or scikit-learn") from error
    return np.asarray(load_sample_image("china.jpg"))


def compare_logits(
    weights: WeightFile, model: ViT, variables: dict[str, Any], preprocessing: Preprocessing, photo: np.ndarray | None
) -> tuple[float, float]:
    """Compare the logits of a converted model with those of timm for the same weight file and photo.

    timm reads the file, resamples position embeddings and preprocesses the photo itself. Both models compute in
    float32.

    Args:
        weights: Tensors that were converted.
        model: Converted model; its reducer is ignored.
        variables: Variables of the converted model.
        preprocessing: Preprocessing of the converted model.
        photo: uint8 `[h, w, 3]`, or None for a sample photo.

    Returns:
        The largest absolute difference of a logit, and the largest absolute logit of timm.

    Raises:
        CannotCompareError: torch or timm is not installed, or timm cannot create the model or load the file.
    """
    timm = _import_timm()
    photo = sample_photo() if photo is None else photo
    with _timm_file(weights) as file:
        expected = _timm_logits(timm, file, model, photo)
    transform = EvalTransform(model.img_size, model.in_chans, *preprocessing.geometry)
    images = normalize(transform(photo)[None], preprocessing.mean, preprocessing.std)
    plain = replace(model, reducer=None, removed=(), dtype="float32")
    with jax.default_matmul_precision("highest"):
        actual = np.asarray(jax.jit(plain.apply)(variables, images))
    return float(np.abs(actual - expected).max()), float(np.abs(expected).max())


@contextmanager
def _timm_file(weights: WeightFile) -> Generator[Path]:
    """Yield a file of the weights that timm reads: the file itself, or the selected tensors without a wrapper."""
    path, wrapper, suffix = weights.path, wrapper_of(weights), SUFFIX_OF_KIND[weights.kind]
    if path.suffix == suffix and not (weights.entry or weights.prefix or weights.ignored or wrapper):
        yield path
        return
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory(prefix="tcvit_jax-") as folder:
        file = Path(folder) / f"weights{suffix}"
        if not (weights.entry or weights.prefix or weights.ignored or wrapper):
            file.symlink_to(path.absolute())
        else:
            tensors = {name.removeprefix(wrapper): np.ascontiguousarray(to_numpy(weights[name])) for name in weights}
            if weights.kind == "npz":
                np.savez(file, allow_pickle=False, **tensors)
            else:
                file = file.with_suffix(".safetensors")
                save_file(tensors, file)
        yield file


def _import_timm() -> Any:
    try:
        import timm  # imports torch
    except Exception as error:  # a torchvision that does not match torch raises more than ImportError
        raise CannotCompareError(f"cannot import torch and timm: {first_line(error)}") from error
    return timm


def _timm_logits(timm: Any, file: Path, model: ViT, photo: np.ndarray) -> np.ndarray:
    import torch
    from PIL import Image

    name = full_name(model.variant)
    if not timm.is_model(name.partition(".")[0]):
        raise CannotCompareError(f"{name.partition('.')[0]} not found in timm")
    overlay = {"file": str(file), "num_classes": model.num_classes, "custom_load": file.suffix == ".npz"}
    try:
        with pickles.standard_types():
            timm_model = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=model.num_classes,
                img_size=model.img_size,
            )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # timm raises many types for a file that it cannot load
        raise CannotCompareError(f"timm cannot load the file: {pickles.reason(error)}") from error
    config = timm.data.resolve_data_config({"input_size": (model.in_chans, *model.img_size)}, model=timm_model)
    images = timm.data.create_transform(**config)(Image.fromarray(photo))[None]
    with torch.inference_mode():
        return timm_model.eval()(images).numpy()
