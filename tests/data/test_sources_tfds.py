"""Tests of the TFDS source, without network and without TensorFlow.

The data is TFDS's mock data and a tiny dataset that is prepared as ArrayRecord.
"""

import json
import pickle
import shutil
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
    """Ten training and four test images of constant value with alternating labels."""

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
    """A dataset without images."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))


class TinyBoxes(TinyShapes):
    """A dataset whose label is not a class."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Tensor(shape=(4, 5, 1), dtype=np.uint8),
            "label": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A TFDS data directory with `tiny_shapes`."""
    directory = str(tmp_path_factory.mktemp("tfds"))
    TinyShapes(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def one_line_error(name: str, split: str, directory: object) -> str:
    with pytest.raises(InputError) as error:
        open_source(name, split, str(directory))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_examples_are_read(data_dir: str) -> None:
    source = open_source("tiny_shapes", "train", data_dir)
    assert source.classes == ("disc", "star") and len(source) == 10
    examples = [source[index] for index in range(len(source))]
    assert all(e["image"].shape == (4, 5, 1) and e["image"].dtype == np.uint8 for e in examples)
    assert all(type(e["label"]) is int for e in examples)
    values = sorted((int(e["image"][0, 0, 0]) // FILE_VALUE_STEP, e["label"]) for e in examples)
    assert values == [(index, index % 2) for index in range(10)]


def test_val_stands_for_the_available_validation_split(data_dir: str) -> None:
    assert len(open_source("tiny_shapes", "val", data_dir)) == 4
    assert len(open_source("tiny_shapes", "val[:50%]", data_dir)) == 2


def test_slices_and_sums_of_splits_are_accepted(data_dir: str) -> None:
    assert len(open_source("tiny_shapes", "train[:30%]", data_dir)) == 3
    assert len(open_source("tiny_shapes", "train+test", data_dir)) == 14


def test_pickled_source_reads_the_same(data_dir: str) -> None:
    source = open_source("tiny_shapes", "train", data_dir)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.classes == source.classes
    np.testing.assert_array_equal(copy[3]["image"], source[3]["image"])


def test_unknown_split_suggests_the_nearest(data_dir: str) -> None:
    message = one_line_error("tiny_shapes", "trian", data_dir)
    assert message == "unknown split of tiny_shapes 'trian': did you mean 'train'?"


def test_malformed_slice_is_an_error(data_dir: str) -> None:
    assert "dataset 'tiny_shapes': cannot open split 'train[:x]': " in one_line_error(
        "tiny_shapes", "train[:x]", data_dir
    )


def test_format_without_random_access_names_the_command(data_dir: str, tmp_path: Path) -> None:
    source, target = (Path(root) / "tiny_shapes" / "1.0.0" for root in (data_dir, tmp_path))
    target.mkdir(parents=True)
    info = json.loads((source / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "riegeli"}))
    (target / "features.json").write_text((source / "features.json").read_text())
    message = one_line_error("tiny_shapes", "train", tmp_path)
    assert f"{target} is in the format riegeli, which has no random access" in message
    command = f"tfds convert_format --dataset_version_dir={target} --out_file_format=array_record"
    assert command in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_imagenet_names_archives_and_command(tmp_path: Path, split: str) -> None:
    message = one_line_error("imagenet2012", split, tmp_path)
    assert f"dataset 'imagenet2012': not found in {tmp_path}/imagenet2012/" in message
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in message
    assert f"{tmp_path}/downloads/manual" in message
    assert f"tfds build imagenet2012 --file_format=array_record --data_dir={tmp_path} " in message
    assert "--config.data.name=folder --config.data.dir=PATH" in message


def test_missing_dataset_with_a_config_names_the_data_directory(tmp_path: Path) -> None:
    message = one_line_error("imagenet_resized/32x32", "train", tmp_path)
    assert f"tfds build imagenet_resized/32x32 --file_format=array_record --data_dir={tmp_path} " in message
    assert "ILSVRC2012" not in message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("imagenet_2012", "imagenet2012"), ("digit", "digits"), ("folders", "folder"), ("tfrecords", "tfrecord")],
)
def test_unknown_name_suggests_the_nearest(tmp_path: Path, name: str, nearest: str) -> None:
    assert one_line_error(name, "train", tmp_path) == f"unknown dataset {name!r}: did you mean {nearest!r}?"


@pytest.mark.parametrize("name", ["imagenet_resized/7x7", "mnist:9.9.9"])
def test_bad_config_or_version_is_an_error(tmp_path: Path, name: str) -> None:
    assert f"dataset {name!r}: cannot open: " in one_line_error(name, "train", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../../etc",
        "/etc",
        "..",
        "mnist/../..",
        "mnist/x/data_dir=/etc",
        "huggingface:mnist",
        "a/b/c",
        "",
        "\n",
        "x" * 5000,
    ],
)
def test_name_that_tfds_does_not_have_is_refused_before_anything_is_searched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    def raise_error(*arguments: object, **options: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(tfds, "builder", raise_error)
    message = one_line_error(name, "train", tmp_path)
    expected = "must be 'digits', 'folder', 'tfrecord' or the name of a TFDS dataset; for example 'imagenet2012'"
    assert message == f"data.name={name!r}: {expected}"


def test_dataset_without_code_is_read_from_its_files(data_dir: str, tmp_path: Path) -> None:
    shutil.copytree(Path(data_dir) / "tiny_shapes", tmp_path / "my_shapes")
    path = tmp_path / "my_shapes" / "1.0.0"
    for file in path.iterdir():
        file.write_bytes(file.read_bytes().replace(b"tiny_shapes", b"my_shapes"))
        file.rename(path / file.name.replace("tiny_shapes", "my_shapes"))
    assert len(open_source("my_shapes", "train", str(tmp_path))) == 10
    assert len(open_source("MyShapes:1.0.0", "val", str(tmp_path))) == 4


def test_dataset_without_images_or_classes_is_an_error(tmp_path: Path) -> None:
    assert "dataset 'tiny_texts': feature 'image' not found among " in one_line_error("tiny_texts", "train", tmp_path)
    assert "dataset 'tiny_boxes': expected class labels, got " in one_line_error("tiny_boxes", "train", tmp_path)


def test_mock_datasets_open_without_tensorflow_or_network() -> None:
    code = """
        import socket, sys

        def raise_error(*args, **kwargs):
            raise AssertionError("network access")

        socket.socket.connect = socket.getaddrinfo = raise_error
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
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"
