"""What a checkpoint records about its origin, and the comparison with the data that it is used with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tcvit_jax import checkpoint, reducers
from tcvit_jax.config import Data
from tcvit_jax.data import Source
from tcvit_jax.errors import InputError, invalid
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.reducers import Reducer

ACCEPT_FLAG = "--accept-data-changes"


@dataclass(frozen=True)
class SplitRecord:
    """The identity of one split of a dataset.

    Attributes:
        name: The name of the dataset, as `data.name`.
        dir: The absolute path of its directory; empty if it has none.
        split: The split.
        images: The number of images.
        fingerprint: The `fingerprint` of the source.
    """

    name: str
    dir: str
    split: str
    images: int
    fingerprint: str

    @classmethod
    def from_source(cls, data: Data, split: str, source: Source) -> SplitRecord:
        """Return the record of an open split.

        Args:
            data: The section that names the dataset.
            split: The split.
            source: The images of the split.
        """
        return cls(data.name, _absolute(data.dir), split, len(source), source.fingerprint)


@dataclass(frozen=True)
class DataRecord:
    """The data of a checkpoint.

    Attributes:
        checkpoint: The name of the checkpoint, for error messages.
        classes: The class names, in order; None if they are not recorded.
        splits: The training and the evaluation split; empty if they are not recorded.
    """

    checkpoint: str
    classes: tuple[str, ...] | None = None
    splits: tuple[SplitRecord, ...] = ()

    @classmethod
    def from_meta(cls, checkpoint: str, meta: Mapping[str, Any]) -> DataRecord:
        """Return what the metadata of a checkpoint record (see `checkpoint.load`).

        Args:
            checkpoint: The name of the checkpoint.
            meta: Its metadata.
        """
        # Configurations of transformers and timm name the classes otherwise than datasets, so these are not compared.
        has_display_names = meta.get("provenance", {}).get("has_class_names", False)
        classes = None if has_display_names else meta.get("classes")
        splits = tuple(SplitRecord(*(split[key.name] for key in fields(SplitRecord))) for split in meta.get("data", ()))
        return cls(checkpoint, None if classes is None else tuple(classes), splits)

    def to_meta(self) -> dict[str, Any]:
        """Return the entries `classes` and `data` of the metadata of a checkpoint."""
        classes = None if self.classes is None else list(self.classes)
        return {"classes": classes, "data": [asdict(split) for split in self.splits]}

    def check(self, data: Data, split: str, source: Source, is_moved: bool = False) -> None:
        """Compare a split with the record: its classes and, if the record has this split, its images.

        Args:
            data: The section that names the dataset.
            split: The split.
            source: The images of the split.
            is_moved: Whether the split counts as the recorded one even if the directory of the dataset is another.

        Raises:
            InputError: The classes or the images differ.
        """
        if self.classes is not None and self.classes != source.classes:
            raise self._error(data, _describe_classes(source.classes, self.classes))
        directory = _absolute(data.dir)
        for record in self.splits:
            if (record.name, record.split) != (data.name, split) or not (is_moved or record.dir == directory):
                continue
            if record.images != len(source):
                raise self._error(data, f"split {split!r} has {len(source):,} images, but {record.images:,}")
            if record.fingerprint != source.fingerprint:
                raise self._error(data, f"split {split!r} has other images, or in another order, than")

    def _error(self, data: Data, difference: str) -> InputError:
        hint = f"use the same data, or accept the change with {ACCEPT_FLAG}"
        return invalid(f"data.name={data.name!r}", f"{difference} in the record of {self.checkpoint!r}", hint)


@dataclass(frozen=True)
class Origin:
    """The origin of weights, as far as it is recorded.

    Attributes:
        preprocessing: The preprocessing of the images; None if it is not recorded.
        record: The data of the checkpoint; None to compare nothing.
        seed: The seed of the training run.
        trained_with: The reducer of the training run; None for the dense model.
    """

    preprocessing: Preprocessing | None
    record: DataRecord | None = None
    seed: int | None = None
    trained_with: Reducer | None = None

    @classmethod
    def from_meta(cls, name: str, meta: Mapping[str, Any]) -> Origin:
        """Return what the metadata of a checkpoint record (see `checkpoint.load`).

        Args:
            name: The name of the checkpoint.
            meta: Its metadata.

        Raises:
            InputError: The preprocessing is invalid.
        """
        preprocessing = checkpoint.read_preprocessing(meta, name) if "preprocessing" in meta else None
        # A checkpoint that was converted from an exported file has no reducer itself.
        reducer = meta.get("trained_with") or meta["model"].get("reducer")
        record = DataRecord.from_meta(name, meta)
        return cls(preprocessing, record, meta.get("seed"), reducers.from_config(reducer))


def _describe_classes(actual: tuple[str, ...], recorded: tuple[str, ...]) -> str:
    if len(actual) != len(recorded):
        return f"it has {len(actual):,} classes, but {len(recorded):,}"
    index = next(index for index, name in enumerate(actual) if name != recorded[index])
    return f"class {index} is {actual[index]!r}, but {recorded[index]!r}"


def _absolute(directory: str) -> str:
    return os.path.realpath(directory) if directory else ""
