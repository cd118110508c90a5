"""What every data source is: labelled images under an index."""

from typing import Protocol, TypedDict

import numpy as np

VALIDATION_SPLITS = ("val", "validation", "test")
"""What data sets call their validation images: `val` stands for the first of these that there is."""


class Example(TypedDict):
    """One labelled image: `image` is uint8 [H, W, C] with C of 3 or 1, `label` an index into the classes."""

    image: np.ndarray
    label: int


class Source(Protocol):
    """Random access to labelled images. Sources are picklable, since worker processes receive a copy.

    Attributes:
        classes: the class names; a label is an index into them.
    """

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """The example at `index`, in 0..len-1. Raises `InputError` if its image cannot be read."""
        ...
