"""Where labelled images come from: scikit-learn's digits, a folder of images, or a TFDS data set."""

from tcvit_jax.data.sources.base import Example, Source
from tcvit_jax.data.sources.digits import DigitsSource
from tcvit_jax.data.sources.folder import FolderSource
from tcvit_jax.data.sources.tfds import TfdsSource

__all__ = ["DigitsSource", "Example", "FolderSource", "Source", "TfdsSource", "open_source"]


def open_source(name: str, split: str, directory: str = "") -> Source:
    """Opens one split of a data set. Nothing is downloaded.

    Args:
        name: `"digits"` (needs scikit-learn), `"folder"` (images in `directory/SPLIT/CLASS/`), or the name of
            a TFDS data set that was prepared as ArrayRecord, such as `"imagenet2012"`.
        split: `"train"` or `"val"`; a folder may have any other, and TFDS reads `"train[:10%]"` too.
        directory: the folder, or the TFDS data directory (empty: the default one of TFDS).

    Raises:
        InputError: the name or the split is unknown, or the data is not on this machine.
    """
    if name == "digits":
        return DigitsSource(split)
    if name == "folder":
        return FolderSource(split, directory)
    return TfdsSource(name, split, directory)
