"""TFRecord files of ImageNet as TPU trainers use them: `train-00000-of-01024`, `validation-00000-of-00128`."""

import io
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tcvit_jax.data.sources.base import VALIDATION_SPLITS, Example, hash_names
from tcvit_jax.data.sources.example_proto import Features, read_example
from tcvit_jax.data.sources.images import decode_image
from tcvit_jax.data.sources.records import Part, RecordFiles
from tcvit_jax.errors import cannot_read, invalid, requires, unknown
from tcvit_jax.files import check_regular, read_lines

_LAYOUT = "expected DIRECTORY/train-00000-of-01024, DIRECTORY/train.tfrecord, or such files in DIRECTORY/train/"
_SHARD = re.compile(r"-(\d+)-of-(\d+)(?=$|\.)")
_IMAGE, _LABEL = "image/encoded", "image/class/label"
_CLASS_NAMES = ("image/class/synset", "image/class/text")
_LABELS_FILE = "labels.txt"
_BACKGROUND = "background"
_LABELS_HINT = (
    f"expected one class name per line, starting at label 0, or {_BACKGROUND!r} on the first line if labels start at 1"
)
# The names and numbers of ImageNet's files. The scripts that write them reserve label 0 for a background class.
_IMAGENET_SHARDS = {"train": 1024, "validation": 128}
_IMAGENET_CLASSES = 1000
_Value = TypeVar("_Value", bytes, int)


class TfrecordSource:
    """The images of one split, as Pillow images of mode RGB.

    A record is a `tf.train.Example` with `image/encoded` (JPEG or PNG) and `image/class/label`.

    The file `labels.txt` in the directory names the classes: its first line the class of label 0, its second line that
    of label 1, and so on. If the first line is `background`, it is not a class, and labels start at 1. Without the file
    only ImageNet can be read, which is recognized by its 1024 files of `train` and 128 of `validation`: its labels 1 to
    1000 become the classes `"0"` to `"999"`. A label out of range is an error, and so is a record whose class name
    (`image/class/synset`, `image/class/text`) is on another line of `labels.txt` than its label.

    Args:
        split: `"train"` or another split in the names of the files. `"val"` stands for the first of `val`, `validation`
            and `test` that exists.
        directory: The directory of the files, or of the directories `train` and `validation` that hold them.
        verify: Whether to verify the checksums of each record that is read.

    Attributes:
        classes: As in `Source`.
        skipped: As in `Source`, empty.
        is_in_memory: As in `Source`.

    Raises:
        InputError: The directory or split is not found, a file is missing or damaged, or the classes are not known.
    """

    is_in_memory = False

    def __init__(self, split: str, directory: str, verify: bool = True) -> None:
        if not directory:
            raise requires("dataset 'tfrecord'", "a directory", f"set --config.data.dir=DIRECTORY, {_LAYOUT}")
        root = Path(directory)
        if not root.is_dir():
            raise cannot_read(directory, "directory not found", _LAYOUT)
        name, files = _find_split(root, split)
        _check_complete(files)
        self.classes, self._first_label = _read_classes(root, name, files)
        self._class_set = frozenset(self.classes)
        self._labels_path = str(root / _LABELS_FILE)
        self._records = RecordFiles([Part(str(path)) for path in files], verify)
        self._split = name
        self.skipped: Mapping[str, int] = {}

    def __len__(self) -> int:
        """Return the number of records in the files of the split."""
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Decode the record at `index`.

        Raises:
            InputError: The record is damaged, or its label is out of range. The message names its file.
        """
        payload, location = self._records[index], self._records.location(index)
        try:
            features = read_example(payload)
        except ValueError as error:
            raise invalid(location, f"not a tf.train.Example: {error}") from error
        encoded = _single_value(features, _IMAGE, bytes, location)
        label = self._class_index(features, location)
        return {"image": decode_image(io.BytesIO(encoded), location), "label": label}

    @property
    def fingerprint(self) -> str:
        """As in `Source`: of the classes, the first label, and the names and record counts of the files."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return hash_names(self.classes, [self._split, str(self._first_label)], self._records.descriptions())

    def _class_index(self, features: Features, location: str) -> int:
        """Return the class index of a record."""
        number = _single_value(features, _LABEL, int, location)
        label = number - self._first_label
        if not 0 <= label < len(self.classes):
            last = self._first_label + len(self.classes) - 1
            problem = f"expected a label in {self._first_label}..{last}, got {number}"
            raise invalid(location, problem, f"check {self._labels_path}: {_LABELS_HINT}")
        for key in _CLASS_NAMES:
            for name in features.get(key, []):
                text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
                if text != self.classes[label] and text in self._class_set:
                    problem = f"label {number} is {self.classes[label]!r} in {self._labels_path}, but {key} is {text!r}"
                    raise invalid(location, problem, f"reorder its lines, or make its first line {_BACKGROUND!r}")
        return label


def _single_value(features: Features, key: str, kind: type[_Value], location: str) -> _Value:
    """Return the value of a feature that must have exactly one."""
    values = features.get(key, [])
    value = values[0] if len(values) == 1 else None
    if not isinstance(value, kind):
        names = ", ".join(sorted(features)) or "none"
        raise invalid(location, f"expected one {kind.__name__} value of {key!r}", f"available features: {names}")
    return value


def _find_split(root: Path, split: str) -> tuple[str, list[Path]]:
    """Return the split name that the file names use, and the files in sorted order."""
    groups = _group_files(root)
    if not groups:
        # The other layout has a directory for each split.
        directories = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        groups = {path.name: [file for files in _group_files(path).values() for file in files] for path in directories}
        groups = {name: files for name, files in groups.items() if files}
    if not groups:
        raise cannot_read(root, "no TFRecord files", _LAYOUT)
    for name in VALIDATION_SPLITS if split == "val" else (split,):
        # The name of the dataset may come first: imagenet-train-00000-of-01024.
        stems = [stem for stem in groups if stem == name or re.search(rf"[-_.]{re.escape(name)}$", stem)]
        if len(stems) > 1:
            problem = f"expected one set of files for split {split!r}, got {', '.join(sorted(stems))}"
            raise cannot_read(root, problem, "move the others to another directory")
        if stems:
            return name, sorted(groups[stems[0]])
    raise unknown(f"split of {root}", split, groups)


def _group_files(directory: Path) -> dict[str, list[Path]]:
    """Return the TFRecord files of a directory, grouped by their names without shard numbers."""
    groups: dict[str, list[Path]] = {}
    for path in directory.iterdir():
        name = path.name
        if name.startswith(".") or not (".tfrecord" in name or _SHARD.search(name)) or path.is_dir():
            continue
        check_regular(path, "a TFRecord file")
        stem = re.sub(r"[-_.]?\d+(-of-\d+)?$", "", name.partition(".tfrecord")[0])
        groups.setdefault(stem, []).append(path)
    return groups


def _shard(path: Path) -> tuple[int, int] | None:
    """Return the shard number and the number of shards in the name of a file, if it has them."""
    match = _SHARD.search(path.name)
    return (int(match[1]), int(match[2])) if match else None


def _check_complete(files: list[Path]) -> None:
    """Check that all shards of a set are there, and only these."""
    shards = {shard: path for path in files if (shard := _shard(path))}
    counts = {count for _, count in shards}
    if not shards:
        return
    directory = files[0].parent
    if len(counts) > 1 or len(shards) != len(files):
        problem = f"expected one set of files, got {files[0].name} and {files[-1].name}"
        raise cannot_read(directory, problem, "move the others to another directory")
    count = counts.pop()
    missing = [number for number in range(count) if (number, count) not in shards]
    if missing:
        match = _SHARD.search(files[0].name)
        assert match is not None
        first = files[0].name.replace(match[0], f"-{missing[0]:0{len(match[1])}d}-of-{match[2]}")
        raise cannot_read(directory, f"{len(missing)} of {count} files not found", f"the first is {first}")


def _read_classes(root: Path, split: str, files: list[Path]) -> tuple[tuple[str, ...], int]:
    """Return the class names, and the label of the first class."""
    path = root / _LABELS_FILE
    if not os.path.lexists(path):
        shard = _shard(files[0])
        if shard is None or shard[1] != _IMAGENET_SHARDS.get(split):
            raise cannot_read(path, "not found", _LABELS_HINT)
        return tuple(str(number) for number in range(_IMAGENET_CLASSES)), 1
    lines = [line.strip() for line in read_lines(path, "class names")]
    first_label = int(lines[0] == _BACKGROUND)
    classes = tuple(lines[first_label:])
    if not all(classes) or not classes:
        line = lines.index("") + 1 if classes else 2
        raise invalid(f"{path} line {line}", "expected a class name")
    return classes, first_label
