"""Tests of the TFDS source, without network and without TensorFlow.

The data are TFDS's own mock examples, and a tiny data set that is really prepared as ArrayRecord.
"""

import json
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tcvit_jax.data import open_source
from tcvit_jax.errors import InputError

FILE_VALUE_STEP = 10


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Ten training and four test images of one value each; labels alternate."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=(4, 5, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=["disc", "star"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(10), "test": self._generate_examples(4)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(count):
            image = np.full((4, 5, 1), index * FILE_VALUE_STEP, np.uint8)
            yield index, {"image": image, "label": index % 2}


class TinyTexts(TinyShapes):
    """A data set without images."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))


class TinyBoxes(TinyShapes):
    """A data set whose label is no class."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=(4, 5, 1), dtype=np.uint8),
            "label": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A TFDS data directory with `tiny_shapes` in it."""
    directory = str(tmp_path_factory.mktemp("tfds"))
    TinyShapes(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def one_line_error(name: str, split: str, directory: object) -> str:
    with pytest.raises(InputError) as caught:
        open_source(name, split, str(directory))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_prepared_set_is_read_in_full(prepared: str) -> None:
    source = open_source("tiny_shapes", "train", prepared)
    assert source.classes == ("disc", "star") and len(source) == 10
    examples = [source[index] for index in range(len(source))]
    assert all(e["image"].shape == (4, 5, 1) and e["image"].dtype == np.uint8 for e in examples)
    assert all(type(e["label"]) is int for e in examples)
    values = sorted((int(e["image"][0, 0, 0]) // FILE_VALUE_STEP, e["label"]) for e in examples)
    assert values == [(index, index % 2) for index in range(10)]


def test_val_stands_for_the_split_that_is_there(prepared: str) -> None:
    assert len(open_source("tiny_shapes", "val", prepared)) == 4
    assert len(open_source("tiny_shapes", "val[:50%]", prepared)) == 2


def test_slices_and_sums_of_splits_pass_through(prepared: str) -> None:
    assert len(open_source("tiny_shapes", "train[:30%]", prepared)) == 3
    assert len(open_source("tiny_shapes", "train+test", prepared)) == 14


def test_a_source_survives_pickling(prepared: str) -> None:
    source = open_source("tiny_shapes", "train", prepared)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.classes == source.classes
    np.testing.assert_array_equal(copy[3]["image"], source[3]["image"])


def test_an_unknown_split_names_the_nearest(prepared: str) -> None:
    message = one_line_error("tiny_shapes", "trian", prepared)
    assert message == "unknown split of tiny_shapes 'trian': did you mean 'train'?"


def test_a_malformed_slice_is_one_line(prepared: str) -> None:
    assert "cannot open split 'train[:x]'" in one_line_error("tiny_shapes", "train[:x]", prepared)


def test_a_set_in_a_format_without_random_access_names_the_command(prepared: str, tmp_path: Path) -> None:
    source, target = (Path(root) / "tiny_shapes" / "1.0.0" for root in (prepared, tmp_path))
    target.mkdir(parents=True)
    info = json.loads((source / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "riegeli"}))
    (target / "features.json").write_text((source / "features.json").read_text())
    message = one_line_error("tiny_shapes", "train", tmp_path)
    assert "is prepared as riegeli" in message
    command = f"tfds convert_format --dataset_version_dir={target} --out_file_format=array_record"
    assert command in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_imagenet_says_how_to_get_it(tmp_path: Path, split: str) -> None:
    message = one_line_error("imagenet2012", split, tmp_path)
    assert f"nothing in {tmp_path}/imagenet2012/" in message
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in message
    assert f"{tmp_path}/downloads/manual" in message
    assert f"tfds build imagenet2012 --file_format=array_record --data_dir={tmp_path} " in message
    assert "--config.data.name=folder --config.data.dir=PATH" in message


def test_a_missing_set_with_a_config_names_the_data_directory(tmp_path: Path) -> None:
    message = one_line_error("imagenet_resized/32x32", "train", tmp_path)
    assert f"tfds build imagenet_resized/32x32 --file_format=array_record --data_dir={tmp_path} " in message
    assert "ILSVRC2012" not in message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("imagenet_2012", "imagenet2012"), ("digit", "digits"), ("folders", "folder"), ("tfrecords", "tfrecord")],
)
def test_an_unknown_name_gets_the_nearest(tmp_path: Path, name: str, nearest: str) -> None:
    assert one_line_error(name, "train", tmp_path) == f"unknown dataset {name!r}: did you mean {nearest!r}?"


@pytest.mark.parametrize("name", ["imagenet_resized/7x7", "mnist:9.9.9", "a/b/c", ""])
def test_a_bad_config_or_version_is_one_line(tmp_path: Path, name: str) -> None:
    assert f"cannot open dataset {name!r}" in one_line_error(name, "train", tmp_path)


def test_a_set_without_images_or_classes_is_refused(tmp_path: Path) -> None:
    assert "'tiny_texts' has no feature 'image'" in one_line_error("tiny_texts", "train", tmp_path)
    assert "'tiny_boxes' is not for classification" in one_line_error("tiny_boxes", "train", tmp_path)


def test_mocked_sets_open_without_tensorflow_or_network() -> None:
    code = """
        import socket, sys

        def refuse(*args, **kwargs):
            raise AssertionError("the network was asked")

        socket.socket.connect = socket.getaddrinfo = refuse
        import tensorflow_datasets as tfds
        from tcvit_jax.data import open_source
        from tcvit_jax.errors import InputError

        try:
            open_source("imagenet2012", "train", "nowhere")
        except InputError:
            pass
        with tfds.testing.mock_data(num_examples=5):
            for name, channels, classes in (("imagenet2012", 3, 1000), ("fashion_mnist", 1, 10)):
                for split in ("train", "val"):
                    source = open_source(name, split)
                    image, label = source[4]["image"], source[4]["label"]
                    assert len(source) == 5 and len(source.classes) == classes
                    assert image.dtype == "uint8" and image.ndim == 3 and image.shape[2] == channels
                    assert type(label) is int and 0 <= label < classes
        print([name for name in ("jax", "tensorflow") if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
