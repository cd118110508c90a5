"""scikit-learn's embedded digits: 1,797 real 8x8 scans (UCI optical recognition of handwritten digits)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tcvit_jax.data.sources.base import Example
from tcvit_jax.errors import InputError, unknown

SPLIT_SEED = 20231103
VAL_SHARE = 0.2


@dataclass(frozen=True)
class Digits:
    """Digits held in memory: images uint8 `[n, 8, 8, 1]`, labels `[n]`."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] = tuple("0123456789")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of `train` and `val`: a fifth of every class, rounded, drawn once and for all.

    The generator and its seed are NumPy's frozen PCG64 stream, so that the split is the same everywhere.
    """
    rng = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    val = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.argsort(rng.random(len(members)), kind="stable")
        val.append(members[order[: round(VAL_SHARE * len(members))]])
    val = np.sort(np.concatenate(val))
    return {"train": np.setdiff1d(np.arange(len(labels)), val), "val": val}


def open_digits(split: str) -> Digits:
    """1,438 training or 359 validation digits; grey levels 0..16 become 0..255.

    Raises:
        InputError: another split, or scikit-learn missing.
    """
    if split not in ("train", "val"):
        raise unknown("split of digits:", split, ("train", "val"))
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError("the digits come with scikit-learn: pip install 'tcvit_jax[demo]'") from error
    bunch = load_digits()
    index = split_indices(bunch.target)[split]
    images = np.round(bunch.images[index] * (255 / 16)).astype(np.uint8)
    return Digits(images[..., None], bunch.target[index].astype(np.int32))
