"""Any image-classification set of TensorFlow Datasets, by name, read from ArrayRecord without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tcvit_jax.data.sources.base import Example
from tcvit_jax.errors import InputError, unknown


@dataclass(frozen=True)
class TFDS:
    """A prepared split; `records` is TFDS's own random-access data source."""

    records: Any
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        record = self.records[int(index)]
        return {"image": np.asarray(record["image"]), "label": int(record["label"])}


def open_tfds(name: str, split: str, directory: str = "") -> TFDS:
    """A split of a prepared data set; `"val"` is its `validation` split, or `test` where it has no other.

    Raises:
        InputError: an unknown name or split, a data set without labelled images, or one that is not prepared on this
            machine, with the command that prepares it.
    """
    # TFDS warns of every directory that it finds nothing in; our error says it once, and better.
    with _quiet():
        builder = _builder(name, directory)
        features = builder.info.features
        if "image" not in features or "label" not in features:
            raise InputError(f"dataset {name!r} has no image and label: its features are {', '.join(features)}")
        split = _validation_split(builder) if split == "val" else split
        try:
            records = builder.as_data_source(split=split)
        except Exception as error:  # TFDS has a type of its own for almost every reason
            raise _why_not(builder, split, error) from error
    return TFDS(records, tuple(features["label"].names))


def _builder(name: str, directory: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=directory or None, try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise unknown("dataset", name, ["digits", "folder", *known]) from error


@contextmanager
def _quiet() -> Iterator[None]:
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _validation_split(builder: Any) -> str:
    return "test" if "test" in builder.info.splits and "validation" not in builder.info.splits else "validation"


def _why_not(builder: Any, split: str, error: Exception) -> InputError:
    """One message for what stands between the user and the split."""
    name, root = builder.name, builder.data_path.parents[1]
    command = f"tfds build {name} --file_format=array_record --data_dir={root}"
    if builder.is_prepared():
        if split.split("[")[0] not in builder.info.splits:
            return unknown(f"split of {name!r}:", split, builder.info.splits)
        if "not supported" in str(error):
            return InputError(
                f"dataset {name!r} in {root} is prepared as {builder.info.file_format.value}, which has no random access: "
                f"prepare it again with `pip install tensorflow && {command} --overwrite`"
            )
        return InputError(f"dataset {name!r}, split {split!r}, cannot be read: {str(error).splitlines()[0]}")
    first = ""
    if name == "imagenet2012":
        first = f"put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {root}/downloads/manual, then "
    return InputError(
        f"dataset {name!r} is not prepared in {root}: {first}run `pip install tensorflow && {command}`, "
        "or use an image folder with --config.data.name=folder --config.data.dir=PATH"
    )
