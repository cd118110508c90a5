"""Image folders with one directory per class: `directory/SPLIT/CLASS/*.jpg`."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from tcvit_jax.data.sources.base import Example, describe_skipped, hash_names
from tcvit_jax.data.sources.images import SUFFIXES, read_image
from tcvit_jax.errors import cannot_read, requires, unknown

_LAYOUT = "expected DIRECTORY/train/CLASS/*.jpg and DIRECTORY/val/CLASS/*.jpg"


class FolderSource:
    """The images in `directory/split`, as Pillow images of mode RGB.

    Files are listed once and decoded when they are read. In every split, labels number the class directories of
    `train`, so that they agree between splits; without a `train` directory they number those of `split` itself. Classes
    are sorted by name, or by number if all names are numbers, such as `0` to `10` or `00` to `10`.

    An image is a file directly in a class directory whose name ends in one of `SUFFIXES`, in lower or upper case. All
    other files are counted in `skipped`, except those in hidden directories.

    Args:
        split: The name of a directory in `directory`.
        directory: The directory that holds the splits.

    Attributes:
        classes: As in `Source`.
        skipped: As in `Source`.
        is_in_memory: As in `Source`.

    Raises:
        InputError: The directory, split, classes or images are not found, or the split has a class that `train` does
            not have.
    """

    is_in_memory = False

    def __init__(self, split: str, directory: str) -> None:
        root = _split_directory(directory, split)
        reference = root.parent / "train"
        self._root, self._names = str(root), list[str]()
        labels: list[int] = []
        skipped: Counter[str] = Counter()
        self.classes = _class_names(reference if reference.is_dir() else root)
        for name in _class_names(root):
            if name not in self.classes:
                problem = f"class {name!r} not found in {reference}"
                raise cannot_read(root, problem, "labels number the classes of train")
            files = list_images(root / name, skipped)
            self._names += [f"{name}/{file}" for file in files]
            labels += [self.classes.index(name)] * len(files)
        loose_files = (entry for entry in os.scandir(root) if entry.is_file(follow_symlinks=False))
        skipped["outside of class folders"] = sum(not entry.name.startswith(".") for entry in loose_files)
        self._labels = np.array(labels, np.int32)
        self.skipped: Mapping[str, int] = {reason: count for reason, count in sorted(skipped.items()) if count}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Decode the image at `index`.

        Raises:
            InputError: The file is not a complete image. The message names its path.
        """
        return {"image": read_image(self.path(index)), "label": int(self._labels[index])}

    def name(self, index: int) -> str:
        """Return the path of an image relative to the split, `CLASS/FILE` with a slash on every system."""
        return self._names[index]

    def path(self, index: int) -> str:
        """Return the path of the file of an image."""
        return os.path.join(self._root, self._names[index])

    @property
    def fingerprint(self) -> str:
        """As in `Source`: of the names of the classes and of the files, in order."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hash_names(self.classes, self._names)


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
    return tuple(sorted(names, key=_number)) if all(map(_is_number, names)) else names


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _number(name: str) -> tuple[int, str]:
    # Where 1 and 01 are two classes, the name decides.
    return int(name), name


def list_images(directory: Path, skipped: Counter[str]) -> list[str]:
    """Return the sorted names of the images in a directory, at least one, and count its other files.

    Args:
        directory: The directory.
        skipped: The number of files that are not read, by reason, which is increased.

    Raises:
        InputError: There are no images.
    """
    files: list[str] = []
    reasons = Counter[str]()
    for entry in os.scandir(directory):
        if _is_directory(entry):
            if not entry.name.startswith("."):
                reasons["in subfolders"] += sum(1 for _ in _visible_files(entry.path))
        elif reason := _skip_reason(entry):
            reasons[reason] += 1
        else:
            files.append(entry.name)
    if not files:
        problem = f"no images ({line})" if (line := describe_skipped(reasons)) else "no images"
        raise cannot_read(directory, problem, f"expected files with suffix {', '.join(SUFFIXES)}")
    skipped.update(reasons)
    return sorted(files)


def _skip_reason(entry: os.DirEntry[str]) -> str:
    """Return why an entry of a class directory, which is no directory, is not read; an empty string for an image."""
    if entry.name.startswith("."):
        return "hidden"
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix not in SUFFIXES:
        return f"with suffix {suffix!r}" if suffix else "without suffix"
    # The entry knows the kind of most files; only symbolic links have to be followed.
    if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path):
        return ""
    return "not regular" if os.path.exists(entry.path) else "linked to nothing"


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _visible_files(directory: str) -> Iterator[str]:
    """Yield the files below a directory that are not hidden. Symbolic links to directories are not followed."""
    for _, directories, files in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        yield from (name for name in files if not name.startswith("."))


def _subdirectories(root: Path) -> tuple[str, ...]:
    """Return the sorted names of the directories in `root` that are not hidden."""
    return tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")))
