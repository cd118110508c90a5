"""Where images come from, behind one small protocol: embedded digits, image folders, TFDS by name."""

from tcvit_jax.data.sources.base import Example, Source
from tcvit_jax.data.sources.digits import open_digits
from tcvit_jax.data.sources.folder import open_folder
from tcvit_jax.data.sources.tfds import open_tfds

__all__ = ["Example", "Source", "open_source"]


def open_source(name: str, split: str, directory: str = "") -> Source:
    """A split of a data set.

    Args:
        name: `"digits"`, `"folder"`, or any TFDS name (`"imagenet2012"`, `"fashion_mnist"`, ...).
        split: `"train"` or `"val"`; for TFDS also its own names and slices, such as `"train[:10%]"`.
        directory: of the image folder, or of TFDS's prepared data sets (`""` is TFDS's default).

    Raises:
        InputError: an unknown name or split, or data that is not on this machine.
    """
    if name == "digits":
        return open_digits(split)
    if name == "folder":
        return open_folder(directory, split)
    return open_tfds(name, split, directory)
