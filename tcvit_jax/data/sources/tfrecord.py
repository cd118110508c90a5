"""Directories of TFRecord files as TPU trainers have ImageNet: `train-00000-of-01024`, `validation-00000-of-00128`."""

import io
import re
from pathlib import Path
from typing import TypeVar

from tcvit_jax.data.sources.base import VALIDATION_SPLITS, Example
from tcvit_jax.data.sources.example_proto import Features, read_example
from tcvit_jax.data.sources.folder import decode_image
from tcvit_jax.data.sources.records import Part, RecordFiles
from tcvit_jax.errors import InputError, unknown

_LAYOUT = "expected DIRECTORY/train-00000-of-01024, DIRECTORY/train.tfrecord and the like, or these in DIRECTORY/train/"
_SHARD = re.compile(r"-(\d+)-of-(\d+)(?=$|\.)")
_IMAGE, _LABEL = "image/encoded", "image/class/label"
_NAMES = ("image/class/synset", "image/class/text")
_LABELS_FILE = "labels.txt"
_BACKGROUND = "background"
# What the scripts that made these files for ImageNet call them; they leave label 0 to a background class.
_IMAGENET_SHARDS = {"train": 1024, "validation": 128}
_IMAGENET_CLASSES = 1000
_Value = TypeVar("_Value", bytes, int)


class TfrecordSource:
    """The images of one split, as Pillow's of mode RGB. A record is a `tf.train.Example` with `image/encoded` (JPEG or
    PNG) and `image/class/label`.

    Which class a label is says `labels.txt` in the directory: its first line names the class of label 0, its second
    that of label 1, and so on. Where the first line is `background`, labels start at 1: that line is no class. Without
    the file only ImageNet is read, which is known by its 1024 files of `train` and 128 of `validation`: its labels are
    1 to 1000, which become the classes `"0"` to `"999"`. A label that is out of range is an error, never a class; so is
    one whose record names (`image/class/synset`, `image/class/text`) another line of `labels.txt`.

    Args:
        split: `"train"`, or another one that the files are named by; `"val"` stands for the first of `val`,
            `validation` and `test` that is there.
        directory: where the files lie, or the directories `train` and `validation` with them.

    Raises:
        InputError: there is no such directory or split, a file is missing or damaged, or nothing tells the classes.
    """

    def __init__(self, split: str, directory: str) -> None:
        if not directory:
            raise InputError(f"data set tfrecord needs a directory; {_LAYOUT}")
        root = Path(directory)
        if not root.is_dir():
            raise InputError(f"data directory {directory} does not exist; {_LAYOUT}")
        stem, files = _files_of(root, split)
        _check_whole(files)
        self.classes, self._first = _read_labels(root, stem, files)
        self._class_set = frozenset(self.classes)
        self._labels_path = str(root / _LABELS_FILE)
        self._records = RecordFiles([Part(str(path)) for path in files])

    def __len__(self) -> int:
        """The number of records in the split's files."""
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Decodes the record at `index`. Raises `InputError`, with its file, where that is not possible."""
        payload, place = self._records[index], self._records.place(index)
        try:
            features = read_example(payload)
        except ValueError as error:
            raise InputError(f"{place} is no tf.train.Example: {error}") from error
        encoded = _single(features, _IMAGE, bytes, place)
        label = self._class_of(features, place)
        return {"image": decode_image(io.BytesIO(encoded), f"in {place}"), "label": label}

    def _class_of(self, features: Features, place: str) -> int:
        """The class of a record, or an error where that is not certain."""
        number = _single(features, _LABEL, int, place)
        label = number - self._first
        if not 0 <= label < len(self.classes):
            last = self._first + len(self.classes) - 1
            raise InputError(
                f"{place} has label {number}, and labels are {self._first}..{last}: {self._labels_path} has one class "
                f"a line from label 0 on, or a first line {_BACKGROUND!r} where labels start at 1"
            )
        for key in _NAMES:
            for name in features.get(key, []):
                text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
                if text != self.classes[label] and text in self._class_set:
                    raise InputError(
                        f"{place} has label {number}, which is {self.classes[label]!r} by {self._labels_path}, and "
                        f"{key} {text!r}: the lines are in another order, or the first should be {_BACKGROUND!r}"
                    )
        return label


def _single(features: Features, key: str, kind: type[_Value], place: str) -> _Value:
    """The one value of a feature that must have one."""
    values = features.get(key, [])
    value = values[0] if len(values) == 1 else None
    if not isinstance(value, kind):
        there = ", ".join(sorted(features)) or "nothing"
        raise InputError(f"{place} must have one {key}, of {kind.__name__}; it has {there}")
    return value


def _files_of(root: Path, split: str) -> tuple[str, list[Path]]:
    """The name that the files of a split have in common, and the files in order."""
    groups = _groups(root)
    if not groups:
        # The other layout: a directory for each split.
        below = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        groups = {path.name: [file for files in _groups(path).values() for file in files] for path in below}
        groups = {name: files for name, files in groups.items() if files}
    if not groups:
        raise InputError(f"no TFRecord files in {root}; {_LAYOUT}")
    for name in VALIDATION_SPLITS if split == "val" else (split,):
        # A data set's name may come first: imagenet-train-00000-of-01024.
        stems = [stem for stem in groups if stem == name or re.search(rf"[-_.]{re.escape(name)}$", stem)]
        if len(stems) > 1:
            raise InputError(f"split {split!r} is not one set of files in {root}, but {', '.join(sorted(stems))}")
        if stems:
            return name, sorted(groups[stems[0]])
    raise unknown(f"split of {root}", split, groups)


def _groups(directory: Path) -> dict[str, list[Path]]:
    """The TFRecord files of a directory by what their names have in common."""
    groups: dict[str, list[Path]] = {}
    for path in directory.iterdir():
        name = path.name
        if name.startswith(".") or not (".tfrecord" in name or _SHARD.search(name)) or not path.is_file():
            continue
        stem = re.sub(r"[-_.]?\d+(-of-\d+)?$", "", name.partition(".tfrecord")[0])
        groups.setdefault(stem, []).append(path)
    return groups


def _shard(path: Path) -> tuple[int, int] | None:
    """The number of a file among how many, where its name tells."""
    found = _SHARD.search(path.name)
    return (int(found[1]), int(found[2])) if found else None


def _check_whole(files: list[Path]) -> None:
    """Refuses a set of numbered files that is not complete."""
    shards = {shard: path for path in files if (shard := _shard(path))}
    counts = {count for _, count in shards}
    if not shards:
        return
    if len(counts) > 1 or len(shards) != len(files):
        raise InputError(f"{files[0].parent} mixes files of several sets: {files[0].name} and {files[-1].name}")
    count = counts.pop()
    missing = [number for number in range(count) if (number, count) not in shards]
    if missing:
        digits = _SHARD.search(files[0].name)
        assert digits is not None
        first = files[0].name.replace(digits[0], f"-{missing[0]:0{len(digits[1])}d}-of-{digits[2]}")
        raise InputError(f"{len(missing)} of {count} files are missing in {files[0].parent}, first {first}")


def _read_labels(root: Path, split: str, files: list[Path]) -> tuple[tuple[str, ...], int]:
    """The classes, and the label of the first one."""
    path = root / _LABELS_FILE
    if not path.is_file():
        shard = _shard(files[0])
        if shard is None or shard[1] != _IMAGENET_SHARDS.get(split):
            raise InputError(
                f"nothing tells the classes of the TFRecord files in {root}: put a {_LABELS_FILE} there, one class "
                f"a line from label 0 on, with a first line {_BACKGROUND!r} where labels start at 1"
            )
        return tuple(str(number) for number in range(_IMAGENET_CLASSES)), 1
    try:
        lines = [line.strip() for line in path.read_text("utf-8").rstrip().split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    first = int(lines[0] == _BACKGROUND)
    classes = tuple(lines[first:])
    if not all(classes) or not classes:
        line = lines.index("") + 1 if classes else 2
        raise InputError(f"{path} must name a class in every line, and line {line} has none")
    return classes, first
