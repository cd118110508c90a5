"""Data sources: scikit-learn's digits, image folders, pairs of images, TFDS datasets and TFRecord files."""

from tcvit_jax.data.sources.base import Example, ImageLike, NamedSource, Source, describe_skipped
from tcvit_jax.data.sources.digits import DigitsSource
from tcvit_jax.data.sources.folder import FolderSource
from tcvit_jax.data.sources.images import refuse_large_images
from tcvit_jax.data.sources.pairs import PairSource
from tcvit_jax.data.sources.tfds import TfdsSource
from tcvit_jax.data.sources.tfrecord import TfrecordSource
from tcvit_jax.errors import cannot_read, first_line

__all__ = [
    "DigitsSource",
    "Example",
    "FolderSource",
    "ImageLike",
    "NamedSource",
    "PairSource",
    "Source",
    "TfdsSource",
    "TfrecordSource",
    "describe_skipped",
    "open_source",
]


def open_source(name: str, split: str, directory: str = "", verify: bool = True) -> Source:
    """Open one split of a dataset. Nothing is downloaded.

    Pillow's warning of images with very many pixels becomes an error in this process, since such an image would use up
    the memory of the machine.

    Args:
        name: `"digits"` (requires scikit-learn), `"folder"` (images in `directory/SPLIT/CLASS/`), `"pairs"` (images in
            `directory/a/` and `directory/b/`), `"tfrecord"` (files such as `directory/SPLIT-00000-of-01024`), or the
            name of a TFDS dataset that was prepared as ArrayRecord or TFRecord, such as `"imagenet2012"`.
        split: `"train"` or `"val"`. A folder may have other splits, and TFDS also accepts slices such as
            `"train[:10%]"`.
        directory: The image folder, the directory of the TFRecord files, or the TFDS data directory. If empty, TFDS
            uses its default directory.
        verify: Whether to verify the checksums of each record of a TFRecord file. Other sources ignore it.

    Returns:
        The source of the split.

    Raises:
        InputError: The name or the split is unknown, or the data is not on this machine or cannot be read.
    """
    refuse_large_images()
    try:
        if name == "digits":
            return DigitsSource(split)
        if name == "folder":
            return FolderSource(split, directory)
        if name == "pairs":
            return PairSource(split, directory)
        if name == "tfrecord":
            return TfrecordSource(split, directory, verify)
        return TfdsSource(name, split, directory, verify)
    # For example, a directory without permission.
    except OSError as error:
        raise cannot_read(error.filename or directory, error.strerror or first_line(error)) from error
