"""Tests that TFDS datasets in TFRecord files are read as the same examples in ArrayRecord files are."""

import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from tcvit_jax.data import open_source
from tcvit_jax.data.sources import Source, record_index
from tcvit_jax.errors import InputError
from tests.data.records import write_records
from tests.data.test_sources_tfds import TinyShapes

SPLITS = ("train", "val", "train[:10%]", "train[25%:60%]", "train[-7:]", "train+test", "test[1:]+train[:3]")


class TinyPhotos(TinyShapes):
    """JPEGs of random sizes, some of them gray, and an additional feature."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(23), "test": self._generate_examples(5)}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        rng = np.random.default_rng(count)
        for index in range(count):
            image = Image.fromarray(rng.integers(0, 256, (*rng.integers(8, 40, 2), 3), np.uint8))
            encoded = io.BytesIO()
            image.convert("L" if index % 4 == 1 else "RGB").save(encoded, "JPEG")
            yield index, {"image": io.BytesIO(encoded.getvalue()), "label": index % 3, "file_name": f"{index}.jpg"}


def copy_as_tfrecord(source: Path, target: Path) -> None:
    """Copy the prepared dataset in `source` to TFRecord files with the same shards and records."""
    from array_record.python.array_record_module import ArrayRecordReader

    target.mkdir(parents=True)
    info = json.loads((source / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for path in source.iterdir():
        if "array_record" in path.name:
            reader = ArrayRecordReader(str(path))
            write_records(target / path.name.replace("array_record", "tfrecord"), reader.read_all())
            reader.close()
        elif path.name != "dataset_info.json":
            shutil.copy(path, target)


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two TFDS data directories with the same datasets, as ArrayRecord and as TFRecord."""
    roots = tmp_path_factory.mktemp("array_record"), tmp_path_factory.mktemp("tfrecord")
    for builder, name in ((TinyShapes, "tiny_shapes"), (TinyPhotos, "tiny_photos")):
        config = tfds.download.DownloadConfig(num_shards=3)
        builder(data_dir=str(roots[0]), file_format="array_record").download_and_prepare(download_config=config)
        copy_as_tfrecord(*(root / name / "1.0.0" for root in roots))
    return str(roots[0]), str(roots[1])


@pytest.fixture
def photos(data_dirs: tuple[str, str], tmp_path: Path) -> Path:
    """The directory of `tiny_photos` in a copy of the TFRecord data directory."""
    target = tmp_path / "tiny_photos" / "1.0.0"
    shutil.copytree(Path(data_dirs[1]) / "tiny_photos" / "1.0.0", target, ignore=shutil.ignore_patterns(".tcvit*"))
    return target


def shard(photos: Path, number: int = 1) -> Path:
    return photos / f"tiny_photos-train.tfrecord-0000{number}-of-00003"


def one_line_error(photos: Path, index: int | None = None) -> str:
    def open_and_read() -> None:
        source = open_source("tiny_photos", "train", str(photos.parents[1]))
        if index is not None:
            source[index]

    with pytest.raises(InputError) as error:
        open_and_read()
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(actual: Source, expected: Source) -> None:
    assert actual.classes == expected.classes and len(actual) == len(expected) > 0
    for index in range(len(actual)):
        assert actual[index]["label"] == expected[index]["label"]
        np.testing.assert_array_equal(actual[index]["image"], expected[index]["image"], strict=True)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["tiny_shapes", "tiny_photos"])
def test_splits_match_array_record(data_dirs: tuple[str, str], name: str, split: str) -> None:
    expected, actual = (open_source(name, split, root) for root in data_dirs)
    assert_same(actual, expected)
    assert_same(pickle.loads(pickle.dumps(actual)), expected)


def test_fingerprints_depend_on_the_split_and_not_on_the_format(data_dirs: tuple[str, str]) -> None:
    names = ("tiny_shapes", "tiny_photos")
    fingerprints = [
        [open_source(name, split, root).fingerprint for name in names for split in SPLITS] for root in data_dirs
    ]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints[0])) == len(fingerprints[0])


def test_pickle_has_no_offsets(data_dirs: tuple[str, str]) -> None:
    source = open_source("tiny_photos", "train", data_dirs[1])
    source[0]
    assert len(pickle.dumps(source)) < 10_000


def test_index_is_reused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []
    scan_offsets = record_index.scan_offsets
    monkeypatch.setattr(record_index, "scan_offsets", lambda path, size: paths.append(path) or scan_offsets(path, size))
    for split, files in (("train[:2]", 1), ("train", 2), ("train", 0), ("test", 3)):
        paths.clear()
        open_source("tiny_photos", split, str(photos.parents[1]))
        assert len(paths) == files, split


def test_split_errors_match_array_record(data_dirs: tuple[str, str]) -> None:
    for split in ("trian", "train[:x]", "train+tset"):
        messages = []
        for root in data_dirs:
            with pytest.raises(InputError) as error:
                open_source("tiny_photos", split, root)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_missing_shard_is_an_error(photos: Path) -> None:
    shard(photos).unlink()
    assert one_line_error(photos) == f"{shard(photos)}: not found"


def test_truncated_shard_is_an_error(photos: Path) -> None:
    shard(photos).write_bytes(shard(photos).read_bytes()[:-10])
    assert f"{shard(photos)}: record 6 at byte " in one_line_error(photos)


def test_shard_with_missing_records_is_an_error(photos: Path) -> None:
    write_records(shard(photos), [b"one"])
    assert f"{shard(photos)}: expected 7 records, got 1" in one_line_error(photos)


@pytest.mark.parametrize("payload", [b"garbage", b"", b"\x0a\x03abc"])
def test_record_that_is_not_an_example_is_an_error(photos: Path, payload: bytes) -> None:
    write_records(shard(photos), [payload] * 7)
    # The shards have 8, 7 and 8 records.
    message = one_line_error(photos, index=10)
    assert f"dataset 'tiny_photos': cannot decode record 2 of {shard(photos)}: " in message


def test_damaged_image_is_an_error(photos: Path) -> None:
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(b"\xff\xd8\xff no jpeg")
    example.features.feature["file_name"].bytes_list.value.append(b"x")
    example.features.feature["label"].int64_list.value.append(1)
    serialized = example.SerializeToString()
    write_records(shard(photos), [serialized] * 7)
    assert f"of {shard(photos)}: cannot identify image" in one_line_error(photos, index=10)


def test_flipped_bits_are_errors_in_both_formats(data_dirs: tuple[str, str], tmp_path: Path) -> None:
    for root, kind in zip(data_dirs, ("array_record", "tfrecord"), strict=True):
        copy = tmp_path / kind / "tiny_photos"
        shutil.copytree(Path(root) / "tiny_photos", copy, ignore=shutil.ignore_patterns(".tcvit*"))
        path = copy / "1.0.0" / f"tiny_photos-train.{kind}-00000-of-00003"
        content = bytearray(path.read_bytes())
        # In the middle of an image, which decodes nevertheless.
        position = content.index(b"\xff\xda") + 100
        content[position] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read_all(open_source("tiny_photos", "train", str(copy.parent)))
        assert "\n" not in str(error.value)
        source = open_source("tiny_photos", "train", str(copy.parent), verify=False)
        if kind == "tfrecord":
            read_all(source)


def read_all(source: Source) -> None:
    for index in range(len(source)):
        source[index]


def test_tensorflow_and_jax_are_not_imported(data_dirs: tuple[str, str]) -> None:
    code = f"""if True:
        import sys, tensorflow_datasets
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.data import test_sources_tfds_tfrecord
        from tcvit_jax.data import open_source
        source = open_source("tiny_photos", "train", {data_dirs[1]!r})
        source[0]
        print([name for name in ("jax", "tensorflow") if name in sys.modules])
    """
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "[]"
