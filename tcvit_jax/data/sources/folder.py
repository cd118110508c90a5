"""Image folders with one directory per class: `directory/SPLIT/CLASS/*.jpg`."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tcvit_jax.data.sources.base import Example
from tcvit_jax.errors import cannot_read, invalid, requires, unknown

SUFFIXES = (".png", ".jpg", ".jpeg")
_LAYOUT = "expected DIRECTORY/train/CLASS/*.jpg and DIRECTORY/val/CLASS/*.jpg"


class FolderSource:
    """The images in `directory/split`, as Pillow images of mode RGB.

    Files are listed once and decoded when they are read. In every split, labels number the sorted class directories of
    `train`, so that they agree between splits; without a `train` directory they number those of `split` itself. Hidden
    files and files that are neither PNG nor JPEG are ignored.

    Args:
        split: The name of a directory in `directory`.
        directory: The directory that holds the splits.

    Raises:
        InputError: The directory, split, classes or images are not found, or the split has a class that `train` does
            not have.
    """

    def __init__(self, split: str, directory: str) -> None:
        root = _split_directory(directory, split)
        reference = root.parent / "train"
        self.classes = _class_names(reference if reference.is_dir() else root)
        paths: list[str] = []
        labels: list[int] = []
        for name in _class_names(root):
            if name not in self.classes:
                raise cannot_read(
                    root, f"class {name!r} not found in {reference}", "labels number the classes of train"
                )
            files = _image_files(root / name)
            paths += files
            labels += [self.classes.index(name)] * len(files)
        self._paths, self._labels = paths, np.array(labels, np.int32)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        """Decode the image at `index`.

        Raises:
            InputError: The file is not a complete image. The message names its path.
        """
        return {"image": read_image(self._paths[index]), "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """Return the path of an image relative to the split, `CLASS/FILE` with a slash on every system."""
        path = Path(self._paths[index])
        return f"{path.parent.name}/{path.name}"


def read_image(path: str) -> Image.Image:
    """Decode an image file to a Pillow image of mode RGB, as `decode_image` does.

    Raises:
        InputError: The file is missing, empty, truncated or not an image. The message names its path.
    """
    return decode_image(path, path)


def decode_image(file: str | io.BytesIO, name: str) -> Image.Image:
    """Decode a PNG or JPEG to a Pillow image of mode RGB with all pixels loaded. EXIF orientation is ignored.

    Gray, palette, transparent and CMYK images become RGB, so that all images of a folder have the same number of
    channels. Other metadata of the file is discarded.

    Args:
        file: The path or the content of the file.
        name: The name of the file in error messages.

    Returns:
        The decoded image.

    Raises:
        InputError: The file is missing, empty, truncated or not an image.
    """
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"expected at most 8 bits per channel, got mode {image.mode}")
            decoded = _to_rgb(image)
            # Otherwise Pillow would apply a transparent color to every later conversion of the image.
            decoded.info = {}
            return decoded
    # Pillow raises any of these for a damaged file, depending on the format and the damage.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise invalid(name, f"cannot read image: {_reason(file, error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Load the pixels while the file is open, and convert them to RGB."""
    if image.mode == "RGB":
        image.load()
        return image
    # Pillow warns if a palette with transparency is converted to RGB directly.
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(file: str | io.BytesIO, error: Exception) -> str:
    if isinstance(file, io.BytesIO):
        # Pillow's message would contain the repr of the BytesIO object.
        return "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
    if Path(file).is_file() and Path(file).stat().st_size == 0:
        return "the file is empty"
    return " ".join(str(error).split())


def _split_directory(directory: str, split: str) -> Path:
    """Return the directory of a split."""
    if not directory:
        raise requires("dataset 'folder'", "a directory", f"set --config.data.dir=DIRECTORY, {_LAYOUT}")
    root = Path(directory)
    if not root.is_dir():
        raise cannot_read(directory, "directory not found", _LAYOUT)
    splits = _subdirectories(root)
    if not splits:
        raise cannot_read(directory, "no split directories", _LAYOUT)
    if split not in splits:
        raise unknown(f"split of {directory}", split, splits)
    return root / split


def _class_names(root: Path) -> tuple[str, ...]:
    names = _subdirectories(root)
    if not names:
        raise cannot_read(root, "no class directories", _LAYOUT)
    return names


def _image_files(directory: Path) -> list[str]:
    """Return the sorted paths of the images of one class, at least one."""
    files = sorted(
        str(path)
        for path in directory.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise cannot_read(directory, "no images", f"expected files with suffix {', '.join(SUFFIXES)}")
    return files


def _subdirectories(root: Path) -> tuple[str, ...]:
    """Return the sorted names of the directories in `root` that are not hidden."""
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
