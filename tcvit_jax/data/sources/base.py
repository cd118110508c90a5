"""The protocol that every source keeps."""

from typing import Protocol, TypedDict

import numpy as np


class Example(TypedDict):
    """One labelled image: `image` uint8 `[H, W, C]` with 1 or 3 channels, `label` an index into the classes."""

    image: np.ndarray
    label: int


class Source(Protocol):
    """A random-access, picklable collection of examples."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each label."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
