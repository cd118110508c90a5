"""scikit-learn's handwritten digits: 1,797 real 8x8 images that need no download."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from tcvit_jax.data.sources.base import Example, hash_names
from tcvit_jax.errors import requires, unknown

_SPLITS = ("train", "val")
# Of the order of the images, for the fingerprint.
_VERSION = "1"
_SPLIT_SEED = 20231103
_VALIDATION_FRACTION = 0.2


class DigitsSource:
    """One split of the digits, images uint8 `[8, 8, 1]`.

    `val` holds a fifth of each digit, 359 images in all, and `train` the other 1,438.

    Args:
        split: `"train"` or `"val"`.

    Raises:
        InputError: The split is unknown, or scikit-learn is not installed.
    """

    classes = tuple("0123456789")
    skipped: Mapping[str, int] = MappingProxyType({})
    is_in_memory = True

    def __init__(self, split: str) -> None:
        if split not in _SPLITS:
            raise unknown("split of digits", split, _SPLITS)
        self.fingerprint = hash_names(["digits", _VERSION, split])
        images, labels = _load()
        indices = split_indices(labels)[split]
        self._images, self._labels = images[indices], labels[indices]

    def __len__(self) -> int:
        """Return the number of images in this split."""
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """Return the image and label at `index`."""
        return {"image": self._images[index], "label": int(self._labels[index])}


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the sorted indices of `train` and `val`, the same on every machine.

    `val` gets a fifth of every class, rounded.

    Args:
        labels: Class indices, int `[N]`.

    Returns:
        The indices of each split, int `[N_split]`.
    """
    rng = np.random.Generator(np.random.PCG64(_SPLIT_SEED))
    val_indices = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.argsort(rng.random(len(members)), kind="stable")
        val_indices.append(members[order[: round(_VALIDATION_FRACTION * len(members))]])
    val = np.sort(np.concatenate(val_indices))
    return {"train": np.setdiff1d(np.arange(len(labels)), val), "val": val}


def _load() -> tuple[np.ndarray, np.ndarray]:
    """Return all images, uint8 `[1797, 8, 8, 1]` with ink at 255, and labels, int64 `[1797]`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise requires("dataset 'digits'", "scikit-learn", 'run pip install "tcvit_jax[demo]"') from error
    # One row of 64 cells per image; a cell is the number of inked pixels in a 4x4 square, 0..16.
    cells, labels = load_digits(return_X_y=True)
    return np.round(cells * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), labels
