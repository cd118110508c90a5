"""The interface of data sources: random access to labeled images."""

from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from PIL import Image

VALIDATION_SPLITS = ("val", "validation", "test")
"""Names of validation splits. `val` stands for the first of these that a dataset has."""

ImageLike = np.ndarray | Image.Image
"""An image of a source: uint8 `[H, W, C]` with C of 3 or 1, or a Pillow image of mode RGB or L.

Transforms accept both and return the same result for the same pixels. Sources that decode files return Pillow images,
because converting them to NumPy and back copies the pixels twice. The pixels are loaded and the file is closed.
`np.asarray` returns them as an array, `[H, W]` in mode L.
"""


class Example(TypedDict):
    """One labeled image: `image` is an `ImageLike`, and `label` an index into the classes."""

    image: ImageLike
    label: int


class Source(Protocol):
    """Random access to labeled images. Sources are picklable, since every worker process receives a copy.

    Attributes:
        classes: The class names. A label is an index into them.
    """

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Return the example at `index`, in `0..len - 1`.

        Raises:
            InputError: The image cannot be read.
        """
        ...


@runtime_checkable
class NamedSource(Source, Protocol):
    """A source of image files. Label maps are looked up by the names of the files."""

    def name(self, index: int) -> str:
        """Return the path of an image relative to its split, `CLASS/FILE`."""
        ...


def size_of(image: ImageLike) -> tuple[int, int]:
    """Return the (height, width) of an image."""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[0], image.shape[1])
