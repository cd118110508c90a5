"""Pairs of images in two folders with equal file names: `directory/a/*.jpg` and `directory/b/*.jpg`."""

import copy
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tcvit_jax.data.sources.base import VALIDATION_SPLITS, Example, hash_names
from tcvit_jax.data.sources.folder import list_images
from tcvit_jax.data.sources.images import read_image
from tcvit_jax.errors import cannot_read, out_of_range, requires, unknown

FOLDERS = ("a", "b")
_LAYOUT = "expected DIRECTORY/a/*.jpg and DIRECTORY/b/*.jpg with equal file names"


class PairSource:
    """The images in `directory/a`, followed by those in `directory/b`, as Pillow images of mode RGB.

    A label is the number of a pair, so each occurs twice, `count` images apart. The classes are the file names.

    Args:
        split: `"val"`, as pairs are for evaluation only.
        directory: The directory that holds both folders.

    Attributes:
        classes: As in `Source`.
        skipped: As in `Source`.
        is_in_memory: As in `Source`.

    Raises:
        InputError: A folder or its images are not found, or a file name is in one folder only.
    """

    is_in_memory = False

    def __init__(self, split: str, directory: str) -> None:
        if split not in VALIDATION_SPLITS:
            raise unknown("split of pairs", split, VALIDATION_SPLITS)
        if not directory:
            raise requires("dataset 'pairs'", "a directory", f"set --config.data.dir=DIRECTORY, {_LAYOUT}")
        self._root = directory
        skipped: Counter[str] = Counter()
        names: list[list[str]] = []
        for folder in FOLDERS:
            path = Path(directory, folder)
            if not path.is_dir():
                raise cannot_read(path, "directory not found", _LAYOUT)
            names.append(list_images(path, skipped))
        first, second = zip(FOLDERS, names, strict=True)
        for (folder, own), (other, others) in ((first, second), (second, first)):
            if unpaired := sorted(set(own) - set(others)):
                problem = f"{len(unpaired):,} of {len(own):,} images have no partner in {other!r}"
                raise cannot_read(Path(directory, folder, unpaired[0]), problem, _LAYOUT)
        self.classes = tuple(names[0])
        self.skipped: Mapping[str, int] = dict(sorted(skipped.items()))

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return len(self.classes)

    def first(self, count: int) -> "PairSource":
        """Return the first pairs, in the order of their names.

        Args:
            count: The number of pairs.

        Raises:
            InputError: `count` is less than 2, or there are fewer pairs.
        """
        if not 2 <= count <= self.pairs:
            raise out_of_range("--max-pairs", count, f"in [2, {self.pairs}], the number of pairs")
        subset = copy.copy(self)
        subset.classes = self.classes[:count]
        return subset

    def __len__(self) -> int:
        """Return the number of images."""
        return 2 * self.pairs

    def __getitem__(self, index: int) -> Example:
        """Decode the image at `index`.

        Raises:
            InputError: The file is not a complete image. The message names its path.
        """
        return {"image": read_image(os.path.join(self._root, self.name(index))), "label": index % self.pairs}

    def name(self, index: int) -> str:
        """Return the path of an image relative to the directory, `a/FILE` or `b/FILE`."""
        folder, pair = divmod(index, self.pairs)
        return f"{FOLDERS[folder]}/{self.classes[pair]}"

    @property
    def fingerprint(self) -> str:
        """As in `Source`: of the file names, in order."""
        return hash_names(FOLDERS, self.classes)
