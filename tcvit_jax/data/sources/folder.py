"""Images in folders, one folder per class: `directory/SPLIT/CLASS/*.jpg`."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tcvit_jax.data.sources.base import Example
from tcvit_jax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
_LAYOUT = "expected DIRECTORY/train/CLASS/*.jpg and DIRECTORY/val/CLASS/*.jpg"


class FolderSource:
    """The images below `directory/split`, as Pillow's of mode RGB; files are listed now and decoded when read.

    Labels number the class directories of the split `train` in sorted order, in every split, so that they
    agree between splits; without a `train` they number those of `split` itself. Hidden files and files that
    are neither PNG nor JPEG are ignored.

    Args:
        split: the name of a directory in `directory`.
        directory: the folder that holds the splits.

    Raises:
        InputError: there is no such directory, split, class or image, or the split has a class that `train`
            has not.
    """

    def __init__(self, split: str, directory: str) -> None:
        root = _split_directory(directory, split)
        reference = root.parent / "train"
        self.classes = _class_names(reference if reference.is_dir() else root)
        paths: list[str] = []
        labels: list[int] = []
        for name in _class_names(root):
            if name not in self.classes:
                raise InputError(f"class {name!r} in {root} is not among the classes in {reference}")
            files = _image_files(root / name)
            paths += files
            labels += [self.classes.index(name)] * len(files)
        self._paths, self._labels = paths, np.array(labels, np.int32)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        """Decodes the image at `index`. Raises `InputError`, with its path, if it is not a whole image."""
        return {"image": read_image(self._paths[index]), "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """The path of an image relative to the split, `CLASS/FILE` with a slash on every system."""
        path = Path(self._paths[index])
        return f"{path.parent.name}/{path.name}"


def read_image(path: str) -> Image.Image:
    """Decodes an image file to a Pillow image of mode RGB, as `decode_image` does.

    Raises:
        InputError: the file is missing, empty, truncated or no image; the message holds the path.
    """
    return decode_image(path, path)


def decode_image(file: str | io.BytesIO, name: str) -> Image.Image:
    """Decodes a PNG or JPEG to a Pillow image of mode RGB with all its pixels, ignoring its EXIF orientation.

    Grey, palette, transparent and CMYK images become RGB, so that one folder has one number of channels. Of what else
    the file says nothing is kept.

    Args:
        file: its path, or its bytes.
        name: what a message calls it.

    Raises:
        InputError: it is missing, empty, truncated or no image.
    """
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"it has mode {image.mode}, and more than 8 bits a channel would be cut off")
            decoded = _in_rgb(image)
            # A transparent color would be converted along with the image, whenever that is.
            decoded.info = {}
            return decoded
    # Pillow reports broken files by any of these, depending on the format and on what is broken.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read image {name}: {_reason(file, error)}") from error


def _in_rgb(image: Image.Image) -> Image.Image:
    """Reads the pixels now, while the file is open: they stay when it is closed."""
    if image.mode == "RGB":
        image.load()
        return image
    # Pillow warns when a palette with transparency goes to RGB without this detour.
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(file: str | io.BytesIO, error: Exception) -> str:
    if isinstance(file, io.BytesIO):
        # Pillow names the object in memory.
        return "it is no image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
    if Path(file).is_file() and Path(file).stat().st_size == 0:
        return "the file is empty"
    return " ".join(str(error).split())


def _split_directory(directory: str, split: str) -> Path:
    """The directory of a split, or an error that says what is there instead."""
    if not directory:
        raise InputError(f"data set folder needs a directory; {_LAYOUT}")
    root = Path(directory)
    if not root.is_dir():
        raise InputError(f"data directory {directory} does not exist; {_LAYOUT}")
    splits = _subdirectories(root)
    if split not in splits:
        there = ", ".join(splits) or "no directory"
        raise InputError(f"no split {split!r} in {directory}, which holds {there}; {_LAYOUT}")
    return root / split


def _class_names(root: Path) -> tuple[str, ...]:
    names = _subdirectories(root)
    if not names:
        raise InputError(f"no class directories in {root}; {_LAYOUT}")
    return names


def _image_files(directory: Path) -> list[str]:
    """The sorted paths of the images of one class, at least one."""
    files = sorted(
        str(path)
        for path in directory.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise InputError(f"class directory {directory} has no images ({', '.join(SUFFIXES)})")
    return files


def _subdirectories(root: Path) -> tuple[str, ...]:
    """The sorted names of the directories in `root` that are not hidden."""
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
