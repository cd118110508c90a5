"""TensorFlow Datasets (TFDS) prepared as ArrayRecord or TFRecord, read without TensorFlow and without network."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tcvit_jax.data.sources.base import VALIDATION_SPLITS, Example, hash_names
from tcvit_jax.data.sources.records import Part, RecordFiles
from tcvit_jax.errors import InputError, invalid, out_of_range, unknown

_OTHER_SOURCES = ("digits", "folder", "tfrecord")
# NAME/CONFIG:VERSION, where CONFIG and VERSION are optional.
_NAME = re.compile(r"([a-zA-Z]\w*)(/[\w+\-.]+)?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII)
_IMAGENET_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


class TfdsSource:
    """One split of a TFDS dataset with the features `image` and `label`; images are uint8 `[H, W, C]`.

    Args:
        name: A TFDS name, such as `"imagenet2012"` or `"imagenet_resized/32x32"`.
        split: A TFDS split, such as `"train"` or `"train[:10%]"`. `"val"` stands for the first of `val`,
            `validation` and `test` that the dataset has.
        directory: The TFDS data directory, or an empty string for the default one.
        verify: Whether to verify the checksums of each record of a TFRecord file. ArrayRecord always verifies its own.

    Attributes:
        classes: As in `Source`.
        fingerprint: As in `Source`: of the dataset's version, the classes, the split and the examples of its files.
        skipped: As in `Source`, empty.
        is_in_memory: As in `Source`.

    Raises:
        InputError: The name or the split is unknown, the dataset does not have labeled images, a file is damaged, or
            the dataset is not on this machine in a format with random access. In the last case the message has the
            command that prepares or converts it.
    """

    is_in_memory = False

    def __init__(self, name: str, split: str, directory: str = "", verify: bool = True) -> None:
        self._name = name
        self.skipped: Mapping[str, int] = {}
        with _silence_tfds():
            builder = _builder(name, directory)
            self.classes = _class_names(name, builder.info.features)
            split = _resolve_split(name, split, builder.info.splits)
            try:
                # Keep only the record reader, which pickles to a few kilobytes.
                self._records = _open_records(name, split, builder, verify)
            except (InputError, MemoryError):
                raise
            except Exception as error:  # TFDS raises many exception types.
                raise _cannot_open(name, split, builder, error) from error
            self.fingerprint = hash_names(self.classes, [builder.info.full_name, split], _shards(split, builder))

    def __len__(self) -> int:
        """Return the number of examples in the split."""
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Read and decode the example at `index`.

        Raises:
            InputError: The example cannot be read, is not a uint8 image, or has no label.
        """
        try:
            record = self._records[index]
        except (InputError, IndexError, MemoryError):
            raise
        except Exception as error:  # ArrayRecord, TFDS and Pillow raise many types for damaged files.
            problem = f"cannot read: {_one_line(error)}"
            raise invalid(f"dataset {self._name!r}, example {index}", problem) from error
        image, label = np.asarray(record["image"]), int(record["label"])
        if image.dtype != np.uint8:
            raise invalid(f"dataset {self._name!r}, example {index}", f"expected a uint8 image, got {image.dtype}")
        if label < 0:
            raise invalid(f"dataset {self._name!r}, example {index}", "label not found", "choose a labeled split")
        return {"image": image, "label": label}


class _DecodedRecords:
    """The examples in TFRecord files, decoded by TFDS. Picklable.

    Args:
        name: The dataset, for error messages.
        records: The serialized examples.
        features: The dataset's `tfds.features.FeaturesDict`.
    """

    def __init__(self, name: str, records: RecordFiles, features: Any) -> None:
        self._name, self._records, self._features = name, records, features

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        payload = self._records[index]
        try:
            return self._features.deserialize_example_np(payload)
        except MemoryError:
            raise
        except Exception as error:  # A damaged payload can fail anywhere in protobuf, TFDS, NumPy and Pillow.
            problem = f"cannot decode {self._records.location(index)}: {_one_line(error)}"
            raise invalid(f"dataset {self._name!r}", problem) from error


@contextmanager
def _silence_tfds() -> Iterator[None]:
    """Suppress TFDS's warning about a directory without data, which `InputError` reports as well."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _builder(name: str, directory: str) -> Any:
    """Return the `tfds.core.DatasetBuilder` of a name. Only code and local files are read."""
    import tensorflow_datasets as tfds

    _check_name(name, directory)
    try:
        # Without try_gcs=False, TFDS would contact the public bucket and hang on a machine without network.
        return tfds.builder(name, data_dir=directory or None, try_gcs=False)
    except Exception as error:  # TFDS raises many types for a bad config, version or spelling.
        raise invalid(f"dataset {name!r}", f"cannot open: {_one_line(error)}") from error


def _check_name(name: str, directory: str) -> None:
    """Raise an `InputError` unless TFDS has a dataset of this name, or there is one in the data directory.

    TFDS itself would search directories, and for names with a namespace, such as `huggingface:mnist`, the network.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.naming import camelcase_to_snakecase
    from tensorflow_datasets.core.utils import file_utils

    match = _NAME.fullmatch(name)
    names = [*_OTHER_SOURCES, *tfds.list_builders(with_community_datasets=False)]
    if match is not None:
        base = camelcase_to_snakecase(match[1])
        directories = file_utils.list_data_dirs(given_data_dir=directory or None)
        if base in names[len(_OTHER_SOURCES) :] or any(os.path.isdir(os.path.join(each, base)) for each in directories):
            return
        if difflib.get_close_matches(name, names, n=1, cutoff=0.5):
            raise unknown("dataset", name, names)
    others = ", ".join(map(repr, _OTHER_SOURCES))
    raise out_of_range("data.name", name, f"{others} or the name of a TFDS dataset", "for example 'imagenet2012'")


def _open_records(name: str, split: str, builder: Any, verify: bool) -> Any:
    """Return random access to the examples of a split.

    TFDS has random access to ArrayRecord files but not to TFRecord files, which `_DecodedRecords` reads.
    """
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError:
        if builder.info.file_format.value != "tfrecord":
            raise
    instructions = builder.info.splits[split].file_instructions
    parts = [Part(str(each.filename), each.skip, each.take, each.examples_in_shard) for each in instructions]
    return _DecodedRecords(name, RecordFiles(parts, verify), builder.info.features)


def _shards(split: str, builder: Any) -> list[str]:
    """Return the range of examples that a split has in each of its files, whatever their format."""
    # The mock data of TFDS has no splits.
    instructions = builder.info.splits[split].file_instructions if builder.info.splits else ()
    return [f"{each.skip} {each.take} {each.examples_in_shard}" for each in instructions]


def _class_names(name: str, features: Any) -> tuple[str, ...]:
    missing = [feature for feature in ("image", "label") if feature not in features]
    if missing:
        problem = f"feature {missing[0]!r} not found among {', '.join(features)}"
        raise invalid(f"dataset {name!r}", problem, "choose a dataset with the features image and label")
    names = getattr(features["label"], "names", None)
    if not names:
        problem = f"expected class labels, got {features['label']!r}"
        raise invalid(f"dataset {name!r}", problem, "choose a classification dataset")
    return tuple(names)


def _resolve_split(name: str, split: str, available: Any) -> str:
    """Replace `val` by the dataset's name of its validation split, and check names. TFDS checks slices."""
    plain, bracket, rest = split.partition("[")
    names = list(available)  # Empty if the dataset is not prepared.
    if plain == "val":
        # The splits of a dataset that is not prepared are not available; opening it raises the error for that.
        plain = next((candidate for candidate in VALIDATION_SPLITS if candidate in names), "validation")
    if names and plain not in names and "+" not in split:
        raise unknown(f"split of {name}", split, names)
    return plain + bracket + rest


def _cannot_open(name: str, split: str, builder: Any, error: Exception) -> InputError:
    """Return the error for a failed `as_data_source`, with the command that fixes it."""
    if not builder.is_prepared():
        return _not_prepared(name, builder)
    if isinstance(error, NotImplementedError):
        return invalid(
            f"dataset {name!r}",
            f"{builder.data_path} is in the format {builder.info.file_format.value}, which has no random access",
            f"to convert it, run tfds convert_format --dataset_version_dir={builder.data_path} "
            "--out_file_format=array_record (requires pip install tensorflow apache-beam)",
        )
    return invalid(f"dataset {name!r}", f"cannot open split {split!r}: {_one_line(error)}")


def _not_prepared(name: str, builder: Any) -> InputError:
    # The data directory is data_path without name[/config]/version.
    root = builder.data_path.parents[builder.info.full_name.count("/")]
    archives = ""
    if builder.name == "imagenet2012":
        archives = f"put {' and '.join(_IMAGENET_ARCHIVES)} into {root}/downloads/manual and "
    hint = (
        f"to prepare it, {archives}run tfds build {name} --file_format=array_record --data_dir={root} (requires pip "
        "install tensorflow), or use an image folder: --config.data.name=folder --config.data.dir=PATH"
    )
    return invalid(f"dataset {name!r}", f"not found in {builder.data_path}", hint)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
