"""TensorFlow Datasets that were prepared as ArrayRecord or TFRecord, without TensorFlow and without the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tcvit_jax.data.sources.base import VALIDATION_SPLITS, Example
from tcvit_jax.data.sources.records import Part, RecordFiles
from tcvit_jax.errors import InputError, unknown

_IMAGENET_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


class TfdsSource:
    """One split of a TFDS data set with the features `image` and `label`; images are uint8 [H, W, C].

    Args:
        name: a TFDS name, such as `"imagenet2012"` or `"imagenet_resized/32x32"`.
        split: a TFDS split, such as `"train"` or `"train[:10%]"`; `"val"` stands for the first of `val`,
            `validation` and `test` that the data set has.
        directory: the TFDS data directory; empty for the default one.

    Raises:
        InputError: the name or the split is unknown, the data set is not labeled images, or no copy of it in
            a format with random access is on this machine, or a file of it is damaged. The message has the command
            that prepares one.
    """

    def __init__(self, name: str, split: str, directory: str = "") -> None:
        self._name = name
        with _quiet():
            builder = _builder(name, directory)
            self.classes = _class_names(name, builder.info.features)
            split = _resolve_split(name, split, builder.info.splits)
            try:
                # Only the record reader is kept: it pickles to a few kilobytes.
                self._records = _open_records(name, split, builder)
            except InputError:
                raise
            except Exception as error:  # TFDS has a type for almost every reason.
                raise _cannot_open(name, split, builder, error) from error

    def __len__(self) -> int:
        """The number of examples in the split."""
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Reads and decodes the example at `index`."""
        record = self._records[index]
        image, label = np.asarray(record["image"]), int(record["label"])
        if image.dtype != np.uint8:
            raise InputError(f"dataset {self._name!r}, example {index}: the image is {image.dtype}, not uint8")
        if label < 0:
            raise InputError(f"dataset {self._name!r}, example {index}: it has no label; choose a labeled split")
        return {"image": image, "label": label}


class _DecodedRecords:
    """The examples in TFRecord files, decoded as TFDS decodes them. Picklable: it holds no offsets.

    Args:
        name: the data set, for messages.
        records: the serialized examples.
        features: the data set's `tfds.features.FeaturesDict`.
    """

    def __init__(self, name: str, records: RecordFiles, features: Any) -> None:
        self._name, self._records, self._features = name, records, features

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        payload = self._records[index]
        try:
            return self._features.deserialize_example_np(payload)
        except Exception as error:  # A damaged payload can fail anywhere in protobuf, TFDS, NumPy and Pillow.
            place = self._records.place(index)
            raise InputError(f"dataset {self._name!r}: cannot decode {place}: {_one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's warning of a directory without data, which our error repeats and explains."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _builder(name: str, directory: str) -> Any:
    """The `tfds.core.DatasetBuilder` of a name. Reads code and local files only."""
    import tensorflow_datasets as tfds

    try:
        # try_gcs=False: never ask the public bucket, so that a machine without network does not hang.
        return tfds.builder(name, data_dir=directory or None, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        names = tfds.list_builders(with_community_datasets=False)
        raise unknown("dataset", name, ["digits", "folder", "tfrecord", *names]) from error
    except Exception as error:  # TFDS reports a bad config, version or spelling by many types.
        raise InputError(f"cannot open dataset {name!r}: {_one_line(error)}") from error


def _open_records(name: str, split: str, builder: Any) -> Any:
    """The examples of a split under an index: TFDS's own reader, or ours for the format that it reads in order only."""
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError:
        if builder.info.file_format.value != "tfrecord":
            raise
    found = builder.info.splits[split].file_instructions
    parts = [Part(str(each.filename), each.skip, each.take, each.examples_in_shard) for each in found]
    return _DecodedRecords(name, RecordFiles(parts), builder.info.features)


def _class_names(name: str, features: Any) -> tuple[str, ...]:
    missing = [feature for feature in ("image", "label") if feature not in features]
    if missing:
        raise InputError(
            f"dataset {name!r} has no feature {missing[0]!r}, only {', '.join(features)}: "
            "choose one that has both image and label"
        )
    names = getattr(features["label"], "names", None)
    if not names:
        raise InputError(f"dataset {name!r} is not for classification: its label is {features['label']!r}")
    return tuple(names)


def _resolve_split(name: str, split: str, available: Any) -> str:
    """Replaces `val` by the data set's own name for it and checks plain names; slices are left to TFDS."""
    plain, bracket, rest = split.partition("[")
    known = list(available)  # empty as long as the data set is not prepared
    if plain == "val":
        # An unprepared set does not tell its splits; the error about that comes when it is opened.
        plain = next((candidate for candidate in VALIDATION_SPLITS if candidate in known), "validation")
    if known and plain not in known and "+" not in split:
        raise unknown(f"split of {name}", split, known)
    return plain + bracket + rest


def _cannot_open(name: str, split: str, builder: Any, error: Exception) -> InputError:
    """Why `as_data_source` refused, and the command that puts it right."""
    if not builder.is_prepared():
        return InputError(_not_prepared(name, builder))
    if isinstance(error, NotImplementedError):
        return InputError(
            f"dataset {name!r} in {builder.data_path} is prepared as {builder.info.file_format.value}, which "
            "has no random access; convert it (needs pip install tensorflow apache-beam) with: tfds "
            f"convert_format --dataset_version_dir={builder.data_path} --out_file_format=array_record"
        )
    return InputError(f"cannot open split {split!r} of dataset {name!r}: {_one_line(error)}")


def _not_prepared(name: str, builder: Any) -> str:
    # The data directory is data_path without name[/config]/version.
    root = builder.data_path.parents[builder.info.full_name.count("/")]
    archives = ""
    if builder.name == "imagenet2012":
        archives = f"put {' and '.join(_IMAGENET_ARCHIVES)} into {root}/downloads/manual, then "
    return (
        f"dataset {name!r} is not prepared on this machine: nothing in {builder.data_path}. To prepare it, "
        f"{archives}run: tfds build {name} --file_format=array_record --data_dir={root} (needs pip install "
        "tensorflow); or use a folder of images: --config.data.name=folder --config.data.dir=PATH"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
