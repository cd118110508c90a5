"""scikit-learn's handwritten digits: 1,797 real 8x8 images that need no download."""

import numpy as np

from tcvit_jax.data.sources.base import Example
from tcvit_jax.errors import InputError, unknown

_SPLITS = ("train", "val")
_SPLIT_SEED = 20231103
_VALIDATION_SHARE = 0.2


class DigitsSource:
    """One split of the digits, images uint8 [8, 8, 1].

    `val` holds a fifth of each digit, 359 images in all, and `train` the other 1,438.

    Args:
        split: `"train"` or `"val"`.

    Raises:
        InputError: the split is another one, or scikit-learn is not installed.
    """

    classes = tuple("0123456789")

    def __init__(self, split: str) -> None:
        if split not in _SPLITS:
            raise unknown("split of digits", split, _SPLITS)
        images, labels = _load()
        chosen = split_indices(labels)[split]
        self._images, self._labels = images[chosen], labels[chosen]

    def __len__(self) -> int:
        """The number of images in this split."""
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """The image and label at `index`."""
        return {"image": self._images[index], "label": int(self._labels[index])}


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The sorted row numbers of `train` and `val`: a fifth of every class, rounded, the same on every machine.

    Args:
        labels: int [N].
    """
    rng = np.random.Generator(np.random.PCG64(_SPLIT_SEED))
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.argsort(rng.random(len(members)), kind="stable")
        chosen.append(members[order[: round(_VALIDATION_SHARE * len(members))]])
    val = np.sort(np.concatenate(chosen))
    return {"train": np.setdiff1d(np.arange(len(labels)), val), "val": val}


def _load() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [1797, 8, 8, 1] with ink at 255, and labels, int64 [1797]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            'data set digits needs scikit-learn, which is not installed: pip install "tcvit_jax[demo]"'
        ) from error
    # One row of 64 cells per image; a cell counts the inked pixels in 4x4, 0..16.
    cells, labels = load_digits(return_X_y=True)
    return np.round(cells * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), labels
