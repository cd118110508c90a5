"""Tests of directories of TFRecord files, whose records are made by TFDS's copy of the message definition."""

import contextlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from tcvit_jax.data import open_source
from tcvit_jax.data.sources.example_proto import read_example
from tcvit_jax.errors import InputError
from tests.data.records import PAYLOADS, write_records

SYNSETS = ("n01440764", "n01443537", "n01484850")
INT64 = st.integers(-(2**63), 2**63 - 1)


def picture(value: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (6, 4), (value, 20, 30) if mode == "RGB" else value).save(file, kind)
    return file.getvalue()


def example(**features: bytes | int | float | list) -> bytes:
    """A serialized Example; two underscores of a name stand for a slash."""
    message = tf_example_pb2.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = message.features.feature[name.replace("__", "/")]
        kinds = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
        kinds[type(values[0])].value.extend(values)
    return message.SerializeToString(deterministic=True)


def record(value: int, label: int, **more: bytes | list) -> bytes:
    box = [0.1, 0.9]
    return example(
        image__encoded=picture(value), image__class__label=label, image__format=b"PNG", image__xmin=box, **more
    )


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Two files of train and one of validation, of three classes that start at 0."""
    (tmp_path / "labels.txt").write_text("cat\ndog\neel\n")
    write_records(tmp_path / "train-00000-of-00002", [record(10, 0), record(11, 2)])
    write_records(tmp_path / "train-00001-of-00002", [record(12, 1)])
    write_records(tmp_path / "validation-00000-of-00001", [record(13, 1)])
    return tmp_path


def one_line_error(split: str, directory: object, index: int | None = None) -> str:
    def open_and_read() -> None:
        source = open_source("tfrecord", split, str(directory))
        if index is not None:
            source[index]

    with pytest.raises(InputError) as caught:
        open_and_read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values(directory: object, split: str = "train") -> list[tuple[int, int]]:
    """The red of every image, and its label."""
    source = open_source("tfrecord", split, str(directory))
    examples = [source[index] for index in range(len(source))]
    assert all(type(found["label"]) is int for found in examples)
    images = [np.asarray(found["image"]) for found in examples]
    assert all(image.shape == (4, 6, 3) and image.dtype == np.uint8 for image in images)
    return [(int(image[0, 0, 0]), found["label"]) for image, found in zip(images, examples, strict=True)]


def test_the_files_of_a_split_are_read_in_order(three: Path) -> None:
    assert open_source("tfrecord", "train", str(three)).classes == ("cat", "dog", "eel")
    assert values(three) == [(10, 0), (11, 2), (12, 1)]


@pytest.mark.parametrize("split", ["val", "validation"])
def test_val_stands_for_validation(three: Path, split: str) -> None:
    assert values(three, split) == [(13, 1)]


def test_a_pickled_source_reads_the_same(three: Path) -> None:
    copy = pickle.loads(pickle.dumps(open_source("tfrecord", "train", str(three))))
    assert len(copy) == 3 and copy.classes == ("cat", "dog", "eel") and copy[2]["label"] == 1


@pytest.mark.parametrize(
    "name",
    [
        "train.tfrecord",
        "train.tfrecords",
        "train_0001.tfrecords",
        "train.tfrecord-00000-of-00001",
        "train-00000-of-00001.tfrecord",
        "pets-train.tfrecord",
        "pets.v2_train-00000-of-00001",
        "train/train-00000-of-00001",
        "train/part.tfrecord",
    ],
)
def test_names_of_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "labels.txt").write_text("cat\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_records(tmp_path / name, [record(5, 0)])
    assert values(tmp_path) == [(5, 0)]


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "L")])
def test_images_of_every_kind_become_rgb(three: Path, kind: str, mode: str) -> None:
    encoded = picture(77, kind, mode)
    write_records(three / "validation-00000-of-00001", [example(image__encoded=encoded, image__class__label=0)])
    with Image.open(io.BytesIO(encoded)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(open_source("tfrecord", "val", str(three))[0]["image"], expected)


def test_labels_start_at_one_after_a_background(three: Path) -> None:
    (three / "labels.txt").write_text("background\ncat\ndog\n")
    source = open_source("tfrecord", "train", str(three))
    assert source.classes == ("cat", "dog")
    assert [source[index]["label"] for index in (1, 2)] == [1, 0]
    assert "has label 0, and labels are 1..2" in one_line_error("train", three, index=0)


def test_a_label_out_of_range_is_an_error(three: Path) -> None:
    (three / "labels.txt").write_text("cat\ndog\n")
    message = one_line_error("train", three, index=1)
    assert f"record 1 of {three / 'train-00000-of-00002'} has label 2, and labels are 0..1" in message
    assert "or a first line 'background' where labels start at 1" in message


@pytest.mark.parametrize("key", ["image__class__synset", "image__class__text"])
def test_a_record_that_names_another_class_is_an_error(three: Path, key: str) -> None:
    (three / "labels.txt").write_text("\n".join(SYNSETS))
    names = [b"n01440764", b"n01443537"]
    rows = [record(1, label, **{key: name}) for label, name in enumerate(names, start=1)]
    write_records(three / "validation-00000-of-00001", rows)
    message = one_line_error("val", three, index=0)
    assert "has label 1, which is 'n01443537'" in message and "'n01440764': the lines are in another order" in message
    (three / "labels.txt").write_text("\n".join(("background", *SYNSETS)))
    assert values(three, "val") == [(1, 0), (1, 1)]


def test_names_that_are_no_class_are_ignored(three: Path) -> None:
    more = {"image__class__text": b"tiger cat, \xff", "image__class__synset": b"n02123045"}
    write_records(three / "validation-00000-of-00001", [record(1, 0, **more)])
    assert values(three, "val") == [(1, 0)]


def test_imagenet_is_known_by_its_files(tmp_path: Path) -> None:
    for number in range(128):
        rows = [record(number, label) for label in (1, 1000, 0, 1001)] if number == 127 else []
        write_records(tmp_path / f"validation-{number:05d}-of-00128", rows)
    source = open_source("tfrecord", "val", str(tmp_path))
    assert source.classes == tuple(str(number) for number in range(1000))
    assert [source[index]["label"] for index in (0, 1)] == [0, 999]
    for index, label in ((2, 0), (3, 1001)):
        assert f"has label {label}, and labels are 1..1000" in one_line_error("val", tmp_path, index=index)


def test_other_files_without_names_are_refused(three: Path) -> None:
    (three / "labels.txt").unlink()
    message = one_line_error("train", three)
    assert f"nothing tells the classes of the TFRecord files in {three}: put a labels.txt there" in message


@pytest.mark.parametrize(("text", "line"), [("", 1), ("background\n", 2), ("cat\n\ndog\n", 2), ("background\n \na", 2)])
def test_labels_without_a_name(three: Path, text: str, line: int) -> None:
    (three / "labels.txt").write_text(text)
    assert one_line_error("train", three) == (
        f"{three / 'labels.txt'} must name a class in every line, and line {line} has none"
    )


def test_labels_that_are_no_text(three: Path) -> None:
    (three / "labels.txt").write_bytes(b"\xff\xfe\x00")
    assert f"cannot read {three / 'labels.txt'}: " in one_line_error("train", three)


def test_missing_files_are_counted_and_the_first_named(three: Path) -> None:
    (three / "train-00000-of-00002").unlink()
    assert one_line_error("train", three) == f"1 of 2 files are missing in {three}, first train-00000-of-00002"


def test_files_of_several_sets(three: Path) -> None:
    write_records(three / "train-00000-of-00003", [])
    assert f"{three} mixes files of several sets" in one_line_error("train", three)
    write_records(three / "a-test.tfrecord", [])
    write_records(three / "b-test.tfrecord", [])
    assert f"split 'test' is not one set of files in {three}, but a-test, b-test" in one_line_error("test", three)


def test_an_unknown_split_names_the_nearest(three: Path) -> None:
    assert one_line_error("trian", three) == f"unknown split of {three} 'trian': did you mean 'train'?"


def test_a_directory_that_does_not_fit(tmp_path: Path) -> None:
    assert "data set tfrecord needs a directory" in one_line_error("train", "")
    assert f"data directory {tmp_path / 'nowhere'} does not exist" in one_line_error("train", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert f"no TFRecord files in {tmp_path}; expected DIRECTORY/train-00000-of-01024" in one_line_error(
        "train", tmp_path
    )


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"garbage", "is no tf.train.Example: "),
        (b"\x0a\x7f", "is no tf.train.Example: it ends within a field"),
        (b"\xff" * 20, "is no tf.train.Example: a number is longer than ten bytes"),
        (b"", "must have one image/encoded, of bytes; it has nothing"),
        (example(image=b"x", label=3), "must have one image/encoded, of bytes; it has image, label"),
        (example(image__encoded=b"x", image__class__label=b"3"), "must have one image/class/label, of int"),
        (example(image__encoded=[b"x", b"y"], image__class__label=0), "must have one image/encoded"),
    ],
)
def test_a_record_that_is_no_labelled_image(three: Path, payload: bytes, reason: str) -> None:
    path = write_records(three / "validation-00000-of-00001", [payload])
    assert f"record 0 of {path} {reason}" in one_line_error("val", three, index=0)


@pytest.mark.parametrize("encoded", [b"", b"no image", picture(3)[:45], picture(3, "JPEG")[:-200]])
def test_an_image_that_cannot_be_read(three: Path, encoded: bytes) -> None:
    rows = [example(image__encoded=encoded, image__class__label=0)]
    path = write_records(three / "validation-00000-of-00001", rows)
    message = one_line_error("val", three, index=0)
    assert f"cannot read image in record 0 of {path}: " in message and "BytesIO" not in message


def test_a_damaged_file_is_named(three: Path) -> None:
    path = three / "train-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"cannot read records of {path}: record 0, at byte 0, is cut off" in one_line_error("train", three)


@given(
    st.dictionaries(st.text(max_size=8), st.lists(st.binary(max_size=300), min_size=1) | st.lists(INT64, min_size=1))
)
def test_examples_are_read_as_protobuf_reads_them(features: dict[str, list]) -> None:
    assert read_example(example(**features)) == {name.replace("__", "/"): found for name, found in features.items()}


@given(st.binary(max_size=200))
def test_any_bytes_are_an_example_or_a_value_error(payload: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_example(payload)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_cut_example_is_an_error_or_lacks_something(cut: int) -> None:
    whole = example(a=PAYLOADS, b=[1, -1, 2**40])
    assert read_example(whole) == {"a": PAYLOADS, "b": [1, -1, 2**40]}
    with pytest.raises(ValueError, match="it ends within"):
        read_example(whole[: len(whole) - 1 - cut])


def test_numbers_may_have_a_field_each() -> None:
    unpacked = b"\x08\x05" + b"\x08" + b"\xff" * 9 + b"\x01"  # 5 and -1, without a length before them
    feature = b"\x1a" + bytes([len(unpacked)]) + unpacked
    entry = b"\x0a\x01a" + b"\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert read_example(b"\x0a" + bytes([len(features)]) + features) == {"a": [5, -1]}
