"""The interface of data sources: random access to labeled images."""

import hashlib
import os
from collections.abc import Iterable, Mapping
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

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of what defines the order, the names and the classes of the examples.

        It changes if images are added, removed or renamed, but not if their content or their directory changes.
        """
        ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """The number of files that are not read, by reason, such as `{"in subfolders": 3, "with suffix '.txt'": 1}`."""
        ...

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are in memory, so that worker processes have nothing to decode."""
        ...

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


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return one line that says which files of a source are not read, or an empty string if all are.

    Args:
        skipped: The number of files by reason.

    Returns:
        A line such as `5 files not read: 3 in subfolders, 2 with suffix '.txt'`.
    """
    count = sum(skipped.values())
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in skipped.items())
    return f"{count:,} {'file' if count == 1 else 'files'} not read: {reasons}" if count else ""


def hash_names(*groups: Iterable[str]) -> str:
    """Return the SHA-256, in hexadecimal, of groups of names, such as those of classes and files.

    Args:
        *groups: The names; different groups never have the same hash. Names from the file system may be no text.
    """
    digest = hashlib.sha256()
    for group in groups:
        names = [os.fsencode(name) for name in group]
        # A name has no zero byte, and the count separates the groups.
        digest.update(b"%d\0%s\0" % (len(names), b"\0".join(names)))
    return digest.hexdigest()


def size_of(image: ImageLike) -> tuple[int, int]:
    """Return the (height, width) of an image."""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[0], image.shape[1])
