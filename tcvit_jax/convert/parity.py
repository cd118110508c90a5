"""The converted model beside timm's own, on a photograph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.data import EvalTransform
from tcvit_jax.errors import InputError, first_line
from tcvit_jax.models import ViT
from tcvit_jax.models.zoo import Preprocessing, full_name
from tcvit_jax.ops.images import normalize


class CannotCompareError(Exception):
    """There is nothing to compare with, for the reason given."""


def photograph(path: str | Path) -> np.ndarray:
    """The image of a file, uint8 `[h, w, 3]`.

    Raises:
        InputError: it is none.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's or the system's
        raise InputError(f"cannot read the photo {str(path)!r}: {first_line(error)}") from error


def stock_photograph() -> np.ndarray:
    """A photo that comes with scikit-learn, uint8 `[h, w, 3]`.

    Raises:
        CannotCompareError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise CannotCompareError("no --photo, and no scikit-learn to bring one") from error
    return np.asarray(load_sample_image("china.jpg"))


def largest_difference(
    file: Path, model: ViT, variables: dict[str, Any], preprocessing: Preprocessing, photo: np.ndarray | None
) -> tuple[float, float]:
    """The largest difference of a logit from what timm makes of the same file and photo, and the largest logit.

    timm reads, resamples and preprocesses by itself; both compute in float32. Without a photo it is a stock one.

    Raises:
        CannotCompareError: torch or timm is missing, or timm cannot build the model or read the file.
    """
    timm = _import_timm()
    photo = stock_photograph() if photo is None else photo
    theirs = _timm_logits(timm, file, model, photo)
    size, crop = model.img_size, preprocessing
    transform = EvalTransform(size, model.in_chans, crop.crop_pct, crop.interpolation, crop.crop_mode)
    images = normalize(jnp.asarray(transform(photo))[None], crop.mean, crop.std)
    plain = replace(model, reducer=None, removed=(), dtype="float32")
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(plain.apply)(variables, images))
    return float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())


def _import_timm() -> Any:
    try:
        import timm  # which imports torch
    except Exception as error:  # a torchvision that does not fit torch raises more than ImportError
        raise CannotCompareError(f"torch or timm cannot be imported: {first_line(error)}") from error
    return timm


def _timm_logits(timm: Any, file: Path, model: ViT, photo: np.ndarray) -> np.ndarray:
    import torch
    from PIL import Image

    name = full_name(model.variant)
    if not timm.is_model(name.partition(".")[0]):
        raise CannotCompareError(f"timm has no {name.partition('.')[0]}")
    overlay = {"file": str(file), "num_classes": model.num_classes, "custom_load": file.suffix == ".npz"}
    try:
        theirs = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=model.num_classes,
            img_size=model.img_size,
        )  # fmt: skip
    except Exception as error:  # whatever timm makes of the file
        raise CannotCompareError(f"timm cannot load it: {first_line(error)}") from error
    config = timm.data.resolve_data_config({"input_size": (model.in_chans, *model.img_size)}, model=theirs)
    images = timm.data.create_transform(**config)(Image.fromarray(photo))[None]
    with torch.inference_mode():
        return theirs.eval()(images).numpy()
