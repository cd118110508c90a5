"""Tests of TFDS data sets in TFRecord files: they must give what the same examples give in ArrayRecord files."""

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
    """JPEGs of any size, some of them gray, and a feature that is not read."""

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


def copied_as_tfrecord(source: Path, target: Path) -> None:
    """Writes the prepared data set in `source` anew: the same shards of the same records, in the other format."""
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
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two TFDS data directories with the same data sets, as ArrayRecord and as TFRecord."""
    roots = tmp_path_factory.mktemp("array_record"), tmp_path_factory.mktemp("tfrecord")
    for builder, name in ((TinyShapes, "tiny_shapes"), (TinyPhotos, "tiny_photos")):
        config = tfds.download.DownloadConfig(num_shards=3)
        builder(data_dir=str(roots[0]), file_format="array_record").download_and_prepare(download_config=config)
        copied_as_tfrecord(*(root / name / "1.0.0" for root in roots))
    return str(roots[0]), str(roots[1])


@pytest.fixture
def photos(prepared: tuple[str, str], tmp_path: Path) -> Path:
    """A TFRecord directory of one's own, and the directory of `tiny_photos` in it."""
    target = tmp_path / "tiny_photos" / "1.0.0"
    shutil.copytree(Path(prepared[1]) / "tiny_photos" / "1.0.0", target, ignore=shutil.ignore_patterns(".tcvit*"))
    return target


def shard(photos: Path, number: int = 1) -> Path:
    return photos / f"tiny_photos-train.tfrecord-0000{number}-of-00003"


def one_line_error(photos: Path, index: int | None = None) -> str:
    def open_and_read() -> None:
        source = open_source("tiny_photos", "train", str(photos.parents[1]))
        if index is not None:
            source[index]

    with pytest.raises(InputError) as caught:
        open_and_read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(one: Source, other: Source) -> None:
    assert one.classes == other.classes and len(one) == len(other) > 0
    for index in range(len(one)):
        assert one[index]["label"] == other[index]["label"]
        np.testing.assert_array_equal(one[index]["image"], other[index]["image"], strict=True)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["tiny_shapes", "tiny_photos"])
def test_every_split_is_that_of_the_other_format(prepared: tuple[str, str], name: str, split: str) -> None:
    expected, found = (open_source(name, split, root) for root in prepared)
    assert_same(found, expected)
    assert_same(pickle.loads(pickle.dumps(found)), expected)


def test_a_pickle_has_no_offsets(prepared: tuple[str, str]) -> None:
    source = open_source("tiny_photos", "train", prepared[1])
    source[0]
    assert len(pickle.dumps(source)) < 10_000


def test_an_index_is_used_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = record_index.scan
    monkeypatch.setattr(record_index, "scan", lambda path, size: scanned.append(path) or scan(path, size))
    for split, files in (("train[:2]", 1), ("train", 2), ("train", 0), ("test", 3)):
        scanned.clear()
        open_source("tiny_photos", split, str(photos.parents[1]))
        assert len(scanned) == files, split


def test_errors_in_the_split_are_those_of_the_other_format(prepared: tuple[str, str]) -> None:
    for split in ("trian", "train[:x]", "train+tset"):
        messages = []
        for root in prepared:
            with pytest.raises(InputError) as caught:
                open_source("tiny_photos", split, root)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_a_missing_shard_is_named(photos: Path) -> None:
    shard(photos).unlink()
    assert one_line_error(photos) == f"cannot read records of {shard(photos)}: No such file or directory"


def test_a_truncated_shard_is_named(photos: Path) -> None:
    shard(photos).write_bytes(shard(photos).read_bytes()[:-10])
    assert f"cannot read records of {shard(photos)}: record 6, at byte " in one_line_error(photos)


def test_a_shard_with_records_missing_is_named(photos: Path) -> None:
    write_records(shard(photos), [b"one"])
    assert f"{shard(photos)} has 1 records where 7 were expected" in one_line_error(photos)


@pytest.mark.parametrize("payload", [b"garbage", b"", b"\x0a\x03abc"])
def test_a_record_that_is_no_example_is_named(photos: Path, payload: bytes) -> None:
    write_records(shard(photos), [payload] * 7)
    # The shards have 8, 7 and 8 records.
    message = one_line_error(photos, index=10)
    assert f"dataset 'tiny_photos': cannot decode record 2 of {shard(photos)}: " in message


def test_an_image_that_is_cut_off_is_named(photos: Path) -> None:
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(b"\xff\xd8\xff no jpeg")
    example.features.feature["file_name"].bytes_list.value.append(b"x")
    example.features.feature["label"].int64_list.value.append(1)
    serialized = example.SerializeToString()
    write_records(shard(photos), [serialized] * 7)
    assert f"of {shard(photos)}: cannot identify image" in one_line_error(photos, index=10)


def test_neither_tensorflow_nor_jax_is_imported(prepared: tuple[str, str]) -> None:
    code = f"""if True:
        import sys, tensorflow_datasets
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.data import test_sources_tfds_tfrecord
        from tcvit_jax.data import open_source
        source = open_source("tiny_photos", "train", {prepared[1]!r})
        source[0]
        print([name for name in ("jax", "tensorflow") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
