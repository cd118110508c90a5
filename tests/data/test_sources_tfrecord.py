"""Tests of the TFRecord source. Records are serialized with the message definition that TFDS includes."""

import contextlib
import io
import os
import pickle
import shutil
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
    """Return a serialized Example. Two underscores in a name stand for a slash."""
    message = tf_example_pb2.Example()
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        feature = message.features.feature[name.replace("__", "/")]
        kinds = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
        kinds[type(values[0])].value.extend(values)
    return message.SerializeToString(deterministic=True)


def record(value: int, label: int, **extra: bytes | list) -> bytes:
    box = [0.1, 0.9]
    return example(
        image__encoded=picture(value), image__class__label=label, image__format=b"PNG", image__xmin=box, **extra
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two files of train and one of validation, with directory classes whose labels start at 0."""
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

    with pytest.raises(InputError) as error:
        open_and_read()
    assert "\n" not in str(error.value)
    return str(error.value)


def values(directory: object, split: str = "train") -> list[tuple[int, int]]:
    """Return the red value and the label of every image."""
    source = open_source("tfrecord", split, str(directory))
    examples = [source[index] for index in range(len(source))]
    assert all(type(example["label"]) is int for example in examples)
    images = [np.asarray(example["image"]) for example in examples]
    assert all(image.shape == (4, 6, 3) and image.dtype == np.uint8 for image in images)
    return [(int(image[0, 0, 0]), example["label"]) for image, example in zip(images, examples, strict=True)]


def test_files_of_a_split_are_read_in_order(directory: Path) -> None:
    assert open_source("tfrecord", "train", str(directory)).classes == ("cat", "dog", "eel")
    assert values(directory) == [(10, 0), (11, 2), (12, 1)]


@pytest.mark.parametrize("split", ["val", "validation"])
def test_val_stands_for_validation(directory: Path, split: str) -> None:
    assert values(directory, split) == [(13, 1)]


def test_pickled_source_reads_the_same(directory: Path) -> None:
    copy = pickle.loads(pickle.dumps(open_source("tfrecord", "train", str(directory))))
    assert len(copy) == 3 and copy.classes == ("cat", "dog", "eel") and copy[2]["label"] == 1


def test_fingerprint_depends_on_classes_split_files_and_counts(directory: Path) -> None:
    fingerprints = {open_source("tfrecord", split, str(directory)).fingerprint for split in ("train", "val")}
    assert len(fingerprints) == 2
    source = open_source("tfrecord", "train", str(directory))
    assert source.fingerprint in fingerprints and source.skipped == {} and not source.is_in_memory
    copy = directory / "copy"
    copy.mkdir()
    for path in directory.glob("*-of-*"):
        shutil.copy(path, copy)
    (copy / "labels.txt").write_text("cat\ndog\neel\n")
    assert open_source("tfrecord", "train", str(copy)).fingerprint == source.fingerprint
    for labels in ("dog\ncat\neel\n", "background\ncat\ndog\neel\n"):
        (copy / "labels.txt").write_text(labels)
        fingerprints.add(open_source("tfrecord", "train", str(copy)).fingerprint)
    (copy / "labels.txt").write_text("cat\ndog\neel\n")
    write_records(copy / "train-00001-of-00002", [record(12, 1), record(13, 1)])
    fingerprints.add(open_source("tfrecord", "train", str(copy)).fingerprint)
    assert len(fingerprints) == 5


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
def test_file_names_are_recognized(tmp_path: Path, name: str) -> None:
    (tmp_path / "labels.txt").write_text("cat\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_records(tmp_path / name, [record(5, 0)])
    assert values(tmp_path) == [(5, 0)]


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "L")])
def test_every_mode_becomes_rgb(directory: Path, kind: str, mode: str) -> None:
    encoded = picture(77, kind, mode)
    write_records(directory / "validation-00000-of-00001", [example(image__encoded=encoded, image__class__label=0)])
    with Image.open(io.BytesIO(encoded)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(open_source("tfrecord", "val", str(directory))[0]["image"], expected)


def test_labels_start_at_one_after_background(directory: Path) -> None:
    (directory / "labels.txt").write_text("background\ncat\ndog\n")
    source = open_source("tfrecord", "train", str(directory))
    assert source.classes == ("cat", "dog")
    assert [source[index]["label"] for index in (1, 2)] == [1, 0]
    assert "expected a label in 1..2, got 0" in one_line_error("train", directory, index=0)


def test_label_out_of_range_is_an_error(directory: Path) -> None:
    (directory / "labels.txt").write_text("cat\ndog\n")
    message = one_line_error("train", directory, index=1)
    assert f"record 1 of {directory / 'train-00000-of-00002'}: expected a label in 0..1, got 2" in message
    assert "'background' on the first line if labels start at 1" in message


@pytest.mark.parametrize("key", ["image__class__synset", "image__class__text"])
def test_record_with_another_class_name_is_an_error(directory: Path, key: str) -> None:
    (directory / "labels.txt").write_text("\n".join(SYNSETS))
    names = [b"n01440764", b"n01443537"]
    rows = [record(1, label, **{key: name}) for label, name in enumerate(names, start=1)]
    write_records(directory / "validation-00000-of-00001", rows)
    message = one_line_error("val", directory, index=0)
    assert "label 1 is 'n01443537' in" in message and "is 'n01440764'; reorder its lines" in message
    (directory / "labels.txt").write_text("\n".join(("background", *SYNSETS)))
    assert values(directory, "val") == [(1, 0), (1, 1)]


def test_unknown_class_names_are_ignored(directory: Path) -> None:
    extra = {"image__class__text": b"tiger cat, \xff", "image__class__synset": b"n02123045"}
    write_records(directory / "validation-00000-of-00001", [record(1, 0, **extra)])
    assert values(directory, "val") == [(1, 0)]


def test_imagenet_is_recognized_by_its_files(tmp_path: Path) -> None:
    for number in range(128):
        rows = [record(number, label) for label in (1, 1000, 0, 1001)] if number == 127 else []
        write_records(tmp_path / f"validation-{number:05d}-of-00128", rows)
    source = open_source("tfrecord", "val", str(tmp_path))
    assert source.classes == tuple(str(number) for number in range(1000))
    assert [source[index]["label"] for index in (0, 1)] == [0, 999]
    for index, label in ((2, 0), (3, 1001)):
        assert f"expected a label in 1..1000, got {label}" in one_line_error("val", tmp_path, index=index)


def test_missing_labels_file_is_an_error(directory: Path) -> None:
    (directory / "labels.txt").unlink()
    message = one_line_error("train", directory)
    assert f"{directory / 'labels.txt'}: not found; expected one class name per line" in message


@pytest.mark.parametrize(("text", "line"), [("", 1), ("background\n", 2), ("cat\n\ndog\n", 2), ("background\n \na", 2)])
def test_empty_line_in_labels_file_is_an_error(directory: Path, text: str, line: int) -> None:
    (directory / "labels.txt").write_text(text)
    assert one_line_error("train", directory) == f"{directory / 'labels.txt'} line {line}: expected a class name"


def test_binary_labels_file_is_an_error(directory: Path) -> None:
    (directory / "labels.txt").write_bytes(b"\xff\xfe\x00")
    assert (
        one_line_error("train", directory) == f"{directory / 'labels.txt'}: not UTF-8 text (byte 0); save it as UTF-8"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfcat\ndog\neel\n",
        b"cat\r\ndog\r\neel\r\n",
        b"\xef\xbb\xbfbackground\r\ncat\r\ndog  \r\n\teel\r\n\r\n \r\n",
        b"cat\rdog\reel",
        b" cat\ndog\t\neel\n\n\n",
    ],
)
def test_labels_may_be_saved_by_any_editor(directory: Path, content: bytes) -> None:
    (directory / "labels.txt").write_bytes(content)
    assert open_source("tfrecord", "train", str(directory)).classes == ("cat", "dog", "eel")


def test_pipes_in_place_of_files_are_not_opened(directory: Path) -> None:
    for name, expected in (("labels.txt", "class names"), ("train-00001-of-00002", "a TFRecord file")):
        path = directory / name
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert one_line_error("train", directory) == f"{path}: expected {expected}, got a pipe"
        path.unlink()
        path.write_bytes(content)
    assert len(open_source("tfrecord", "train", str(directory))) == 3


def test_flipped_bit_of_a_label_is_an_error_unless_checksums_are_not_verified(directory: Path) -> None:
    path = directory / "train-00000-of-00002"
    record_bytes = record(11, 2)
    start = path.read_bytes().index(record_bytes)
    # The label is the only int64 list: feature 3 of length 3, whose values are packed.
    label = start + record_bytes.index(b"\x1a\x03\x0a\x01\x02") + 4
    content = bytearray(path.read_bytes())
    content[label] ^= 1 << 1
    path.write_bytes(content)
    message = one_line_error("train", directory, index=1)
    assert message.startswith(f"{path}: record 1 at byte ") and "wrong checksum of the payload" in message
    assert open_source("tfrecord", "train", str(directory), verify=False)[1]["label"] == 0


def test_missing_files_are_counted(directory: Path) -> None:
    (directory / "train-00000-of-00002").unlink()
    expected = f"{directory}: 1 of 2 files not found; the first is train-00000-of-00002"
    assert one_line_error("train", directory) == expected


def test_several_sets_of_files_are_an_error(directory: Path) -> None:
    write_records(directory / "train-00000-of-00003", [])
    files = "train-00000-of-00002 and train-00001-of-00002"
    assert f"{directory}: expected one set of files, got {files}" in one_line_error("train", directory)
    write_records(directory / "a-test.tfrecord", [])
    write_records(directory / "b-test.tfrecord", [])
    expected = f"{directory}: expected one set of files for split 'test', got a-test, b-test"
    assert expected in one_line_error("test", directory)


def test_unknown_split_suggests_the_nearest(directory: Path) -> None:
    assert one_line_error("trian", directory) == f"unknown split of {directory} 'trian': did you mean 'train'?"


def test_unusable_directory_is_an_error(tmp_path: Path) -> None:
    assert "dataset 'tfrecord' requires a directory: set --config.data.dir" in one_line_error("train", "")
    assert f"{tmp_path / 'nowhere'}: directory not found" in one_line_error("train", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}: no TFRecord files; expected DIRECTORY/train-00000-of-01024" in one_line_error(
        "train", tmp_path
    )


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"garbage", "not a tf.train.Example: "),
        (b"\x0a\x7f", "not a tf.train.Example: truncated field"),
        (b"\xff" * 20, "not a tf.train.Example: varint longer than 10 bytes"),
        (b"", "expected one bytes value of 'image/encoded'; available features: none"),
        (example(image=b"x", label=3), "expected one bytes value of 'image/encoded'; available features: image, label"),
        (example(image__encoded=b"x", image__class__label=b"3"), "expected one int value of 'image/class/label'"),
        (example(image__encoded=[b"x", b"y"], image__class__label=0), "expected one bytes value of 'image/encoded'"),
    ],
)
def test_record_that_is_not_a_labeled_image_is_an_error(directory: Path, payload: bytes, reason: str) -> None:
    path = write_records(directory / "validation-00000-of-00001", [payload])
    assert f"record 0 of {path}: {reason}" in one_line_error("val", directory, index=0)


@pytest.mark.parametrize("encoded", [b"", b"not an image", picture(3)[:45], picture(3, "JPEG")[:-200]])
def test_unreadable_image_is_an_error(directory: Path, encoded: bytes) -> None:
    rows = [example(image__encoded=encoded, image__class__label=0)]
    path = write_records(directory / "validation-00000-of-00001", rows)
    message = one_line_error("val", directory, index=0)
    assert f"record 0 of {path}: cannot read image: " in message and "BytesIO" not in message


def test_truncated_file_is_an_error(directory: Path) -> None:
    path = directory / "train-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: record 0 at byte 0 is truncated" in one_line_error("train", directory)


@given(
    st.dictionaries(st.text(max_size=8), st.lists(st.binary(max_size=300), min_size=1) | st.lists(INT64, min_size=1))
)
def test_read_example_matches_protobuf(features: dict[str, list]) -> None:
    expected = {name.replace("__", "/"): values for name, values in features.items()}
    assert read_example(example(**features)) == expected


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_value_error(payload: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_example(payload)


@pytest.mark.parametrize("missing", range(0, 60, 7))
def test_truncated_example_is_an_error(missing: int) -> None:
    payload = example(a=PAYLOADS, b=[1, -1, 2**40])
    assert read_example(payload) == {"a": PAYLOADS, "b": [1, -1, 2**40]}
    with pytest.raises(ValueError, match="truncated"):
        read_example(payload[: len(payload) - 1 - missing])


def test_unpacked_integers_are_read() -> None:
    unpacked = b"\x08\x05" + b"\x08" + b"\xff" * 9 + b"\x01"  # 5 and -1, one field each
    feature = b"\x1a" + bytes([len(unpacked)]) + unpacked
    entry = b"\x0a\x01a" + b"\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert read_example(b"\x0a" + bytes([len(features)]) + features) == {"a": [5, -1]}
