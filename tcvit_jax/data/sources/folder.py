"""A folder of images, one sub-folder per class: `DIR/train/CLASS/*.png|jpg`, `DIR/val/CLASS/*.png|jpg`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tcvit_jax.data.sources.base import Example
from tcvit_jax.errors import InputError, unknown

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Folder:
    """Images decoded when read, always RGB; `files[i]` belongs to class `labels[i]`."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return {"image": read_image(self.files[index]), "label": self.labels[index]}


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 RGB `[H, W, 3]`.

    Raises:
        InputError: an empty, truncated or otherwise unreadable file, with its path.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow raises SyntaxError for some broken PNG files.
        reason = "the file is empty" if path.is_file() and path.stat().st_size == 0 else str(error).split("\n")[0]
        raise InputError(f"cannot read image {str(path)!r}: {reason}") from error


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def open_folder(directory: str, split: str) -> Folder:
    """One split of an image folder; labels are positions among the sorted class names of `train`.

    Raises:
        InputError: a directory, split, class or image that is not there, with the path looked at.
    """
    root = Path(directory)
    if not directory or not root.is_dir():
        raise InputError(
            f"image folder {directory!r} is not a directory: give one that holds train/CLASS/*.png|jpg and "
            "val/CLASS/*.png|jpg, as --config.data.dir=PATH"
        )
    if not (root / split).is_dir():
        raise unknown(f"split of image folder {directory!r}:", split, _folders(root) or ["train", "val"])
    # Validation labels are training labels, even where a class has no validation image.
    classes = _folders(root / "train") if (root / "train").is_dir() else _folders(root / split)
    if not classes:
        raise InputError(f"no class folder in {str(root / split)!r}: images belong in {split}/CLASS/")
    files, labels = [], []
    for name in _folders(root / split):
        if name not in classes:
            raise unknown(f"class folder in {str(root / split)!r}:", name, classes)
        found = _images(root / split / name)
        files += found
        labels += [classes.index(name)] * len(found)
    if not files:
        raise InputError(f"no image in {str(root / split)!r}: expected CLASS/*{', CLASS/*'.join(SUFFIXES)}")
    return Folder(tuple(files), tuple(labels), tuple(classes))
