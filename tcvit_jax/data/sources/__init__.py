"""Where labeled images come from: scikit-learn's digits, a folder of images, a TFDS data set, or TFRecord files."""

from tcvit_jax.data.sources.base import Example, ImageLike, Source
from tcvit_jax.data.sources.digits import DigitsSource
from tcvit_jax.data.sources.folder import FolderSource
from tcvit_jax.data.sources.tfds import TfdsSource
from tcvit_jax.data.sources.tfrecord import TfrecordSource

__all__ = [
    "DigitsSource",
    "Example",
    "FolderSource",
    "ImageLike",
    "Source",
    "TfdsSource",
    "TfrecordSource",
    "open_source",
]


def open_source(name: str, split: str, directory: str = "") -> Source:
    """Opens one split of a data set. Nothing is downloaded.

    Args:
        name: `"digits"` (needs scikit-learn), `"folder"` (images in `directory/SPLIT/CLASS/`), `"tfrecord"` (files
            `directory/SPLIT-00000-of-01024` and the like), or the name of a TFDS data set that was prepared as
            ArrayRecord or TFRecord, such as `"imagenet2012"`.
        split: `"train"` or `"val"`; a folder may have any other, and TFDS reads `"train[:10%]"` too.
        directory: the folder, that of the TFRecord files, or the TFDS data directory (empty: the default one of TFDS).

    Raises:
        InputError: the name or the split is unknown, or the data is not on this machine.
    """
    if name == "digits":
        return DigitsSource(split)
    if name == "folder":
        return FolderSource(split, directory)
    if name == "tfrecord":
        return TfrecordSource(split, directory)
    return TfdsSource(name, split, directory)
