"""What every data source is: labeled images under an index."""

from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from PIL import Image

VALIDATION_SPLITS = ("val", "validation", "test")
"""What data sets call their validation images: `val` stands for the first of these that there is."""

ImageLike = np.ndarray | Image.Image
"""An image as its source has it: uint8 [H, W, C] with C of 3 or 1, or a Pillow image of mode RGB or L.

Transforms take either, and make the same of the same pixels. What decodes files leaves their pixels where Pillow put
them, since to and fro they are copied twice. They are all there, and the file is closed; `np.asarray` gives them as an
array, [H, W] in mode L.
"""


class Example(TypedDict):
    """One labeled image: `image` is a `ImageLike`, and `label` an index into the classes."""

    image: ImageLike
    label: int


class Source(Protocol):
    """Random access to labeled images. Sources are picklable, since worker processes receive a copy.

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


@runtime_checkable
class NamedSource(Source, Protocol):
    """A source of image files, by whose names other files about the images are found."""

    def name(self, index: int) -> str:
        """The path of an image relative to its split, `CLASS/FILE`."""
        ...


def size_of(image: ImageLike) -> tuple[int, int]:
    """The (height, width) of an image."""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[0], image.shape[1])
