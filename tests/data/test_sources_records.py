"""Tests of random access to TFRecord files, which are written without TensorFlow."""

import gzip
import multiprocessing
import os
import pickle
import shutil
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.data.sources import record_index, records
from tcvit_jax.data.sources.record_index import masked_crc32c, read_index
from tcvit_jax.data.sources.records import Part, RecordFiles
from tcvit_jax.errors import InputError
from tests.data.records import PAYLOADS, checksum, crc32c, write_records


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that replaces the user's cache."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_records(tmp_path / "a.tfrecord", PAYLOADS)


@pytest.fixture
def no_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make reading headers an error."""

    def scan_offsets(path: str, size: int) -> list[int]:
        raise AssertionError(f"the headers of {path} were read")

    monkeypatch.setattr(record_index, "scan_offsets", scan_offsets)


def read_all(path: object) -> list[bytes]:
    reader = RecordFiles([Part(str(path))])
    return [reader[index] for index in range(len(reader))]


def one_line_error(path: object, total: int | None = None) -> str:
    with pytest.raises(InputError) as error:
        RecordFiles([Part(str(path), total=total)])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checksum_matches_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    for data in (b"", b"123456789", struct.pack("<Q", 12345), bytes(32)):
        assert struct.pack("<I", masked_crc32c(data)) == checksum(data)


@settings(max_examples=50)
@given(st.lists(st.lists(st.binary(max_size=60), max_size=8), min_size=1, max_size=4), st.data())
def test_all_records_of_all_parts_are_read(files: list[list[bytes]], data: st.DataObject) -> None:
    expected, parts = [], []
    with tempfile.TemporaryDirectory() as directory:
        for number, payloads in enumerate(files):
            path = write_records(Path(directory) / f"{number}.tfrecord", payloads)
            skip = data.draw(st.integers(0, len(payloads)))
            take = data.draw(st.none() | st.integers(0, len(payloads) - skip))
            parts.append(Part(str(path), skip, take, len(payloads)))
            expected += payloads[skip:] if take is None else payloads[skip : skip + take]
        reader = RecordFiles(parts)
        assert len(reader) == len(expected)
        assert [reader[index] for index in range(len(reader))] == expected
        with pytest.raises(IndexError):
            reader[len(reader)]
        with pytest.raises(IndexError):
            reader[-1]


def test_location_counts_records_in_the_file(tmp_path: Path) -> None:
    paths = [str(write_records(tmp_path / name, PAYLOADS)) for name in ("a", "b")]
    reader = RecordFiles([Part(paths[0], 1, 2), Part(paths[1], 3)])
    expected = [f"record 1 of {paths[0]}", f"record 2 of {paths[0]}", f"record 3 of {paths[1]}"]
    assert [reader.location(index) for index in range(3)] == expected


def test_pickle_is_small_and_reads_the_same(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a", [b"%d" % number for number in range(3000)])
    reader = RecordFiles([Part(str(path))])
    assert reader[2999] == b"2999"
    data = pickle.dumps(reader)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert len(copy) == 3000 and copy[17] == b"17" and copy[2999] == b"2999"


def test_threads_read_more_files_than_the_open_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MAX_OPEN_FILES", 3)
    paths = [write_records(tmp_path / str(number), [b"%d" % number] * 5) for number in range(10)]
    reader = RecordFiles([Part(str(path)) for path in paths])
    order = np.random.default_rng(0).integers(0, 50, 2000).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(reader.__getitem__, order)) == [b"%d" % (index // 5) for index in order]
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert sum(name.startswith(str(tmp_path)) for name in open_files) <= 3


def _is_link(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def test_processes_index_and_read_concurrently(tmp_path: Path) -> None:
    payloads = [b"%d" % number for number in range(500)]
    path = write_records(tmp_path / "a.tfrecord", payloads)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(read_all, [path] * 4, chunksize=1) == [payloads] * 4
    assert [entry.name for entry in (tmp_path / ".tcvit_index").iterdir()] == ["a.tfrecord.npy"]


def test_index_is_saved_next_to_the_data_and_reused(file: Path, request: pytest.FixtureRequest) -> None:
    offsets = read_index(str(file))
    lengths = [len(payload) + 16 for payload in PAYLOADS]
    assert offsets.dtype == np.int64 and offsets.tolist() == [0, *np.cumsum(lengths)]
    assert (file.parent / ".tcvit_index" / "a.tfrecord.npy").is_file()
    request.getfixturevalue("no_scans")
    np.testing.assert_array_equal(read_index(str(file)), offsets)
    assert read_all(file) == PAYLOADS


def test_index_is_saved_in_the_cache_if_the_data_is_read_only(
    file: Path, cache: Path, request: pytest.FixtureRequest
) -> None:
    (file.parent / ".tcvit_index").write_text("a file prevents the directory")
    assert read_all(file) == PAYLOADS
    (index_path,) = cache.rglob("*.npy")
    assert index_path.name == "a.tfrecord.npy"
    request.getfixturevalue("no_scans")
    assert read_all(file) == PAYLOADS


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to read-only directories")
def test_index_is_saved_in_the_cache_without_write_permission(file: Path, cache: Path) -> None:
    file.parent.chmod(0o555)
    try:
        assert read_all(file) == PAYLOADS
    finally:
        file.parent.chmod(0o755)
    assert len(list(cache.rglob("*.npy"))) == 1


def test_index_that_cannot_be_saved_is_not_an_error(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / ".tcvit_index").write_text("a file prevents the directory")
    (cache / "file").write_text("a file prevents the directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    reader = RecordFiles([Part(str(file))])
    assert pickle.loads(pickle.dumps(reader))[2] == PAYLOADS[2]


def test_full_disk_leaves_no_partial_index(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", raise_no_space)
    assert read_all(file) == PAYLOADS
    assert not [path for root in (file.parent, cache) for path in root.rglob("*npy*")]


def test_files_of_the_same_name_have_separate_indices(tmp_path: Path, cache: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tcvit_index").write_text("")
        write_records(tmp_path / name / "x.tfrecord", [name.encode()])
    assert [read_all(tmp_path / name / "x.tfrecord") for name in ("a", "b")] == [[b"a"], [b"b"]]
    assert len(list(cache.rglob("x.tfrecord.npy"))) == 2


def test_index_is_rebuilt_when_the_file_changes(file: Path) -> None:
    assert read_all(file) == PAYLOADS
    status = file.stat()
    write_records(file, PAYLOADS[:2])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # Only the size differs.
    assert read_all(file) == PAYLOADS[:2]
    write_records(file, [b"on", b"e"])
    write_records(file, [b"o", b"ne"])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # Only the modification time differs.
    assert read_all(file) == [b"o", b"ne"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", pickle.dumps([1, 2]), b"PK\x03\x04"])
def test_damaged_index_is_rebuilt(file: Path, content: bytes) -> None:
    index_path = file.parent / ".tcvit_index" / "a.tfrecord.npy"
    index_path.parent.mkdir()
    index_path.write_bytes(content)
    assert read_all(file) == PAYLOADS
    assert np.load(index_path).dtype == np.int64


@pytest.mark.parametrize("index", [np.zeros(2, np.int64), np.zeros((4, 4), np.int64), np.zeros(9), np.int64(1)])
def test_index_of_wrong_content_is_rebuilt(file: Path, index: np.ndarray) -> None:
    index_path = file.parent / ".tcvit_index" / "a.tfrecord.npy"
    index_path.parent.mkdir()
    np.save(index_path, index)
    assert read_all(file) == PAYLOADS


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert one_line_error(path) == f"{path}: not found"
    assert one_line_error(tmp_path) == f"{tmp_path}: expected a TFRecord file, got a directory"


def test_empty_file_has_no_records(tmp_path: Path) -> None:
    assert read_all(write_records(tmp_path / "a", [])) == []
    assert len(RecordFiles([])) == 0


@pytest.mark.parametrize("size", [1, 4, 200, 256 + 4 + 11, 256 + 4 + 5])
def test_truncated_file_is_an_error(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:-size])
    message = one_line_error(file)
    assert f"{file}: record 3 at byte 551 is truncated" in message


def test_damaged_length_is_an_error(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[19] ^= 1  # The length of the second record.
    file.write_bytes(content)
    assert f"{file}: record 1 at byte 19 has a wrong checksum of its length" in one_line_error(file)


@pytest.mark.parametrize("content", [b"<html>404 not found</html>", bytes(1000)])
def test_other_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert "not a TFRecord file" in one_line_error(path)
    assert not (tmp_path / ".tcvit_index").exists()


def test_compressed_file_is_an_error(file: Path) -> None:
    file.write_bytes(gzip.compress(file.read_bytes()))
    assert one_line_error(file) == f"{file}: compressed with gzip; decompress it"


def test_wrong_number_of_records_is_an_error(file: Path) -> None:
    assert f"{file}: expected 5 records, got 4" in one_line_error(file, total=5)


def test_file_changed_after_pickling_is_an_error(file: Path) -> None:
    copy = pickle.loads(pickle.dumps(RecordFiles([Part(str(file))])))
    write_records(file, PAYLOADS[:1])
    with pytest.raises(InputError, match="expected 4 records, got 1"):
        copy[0]


def test_file_truncated_after_opening_is_an_error(file: Path) -> None:
    reader = RecordFiles([Part(str(file))])
    assert reader[0] == PAYLOADS[0]
    os.truncate(file, 100)
    with pytest.raises(InputError, match=f"{file}: cannot read record 2: expected 516 bytes, got 65"):
        reader[2]


def test_file_deleted_before_opening_is_an_error(file: Path) -> None:
    reader = RecordFiles([Part(str(file))])
    file.unlink()
    with pytest.raises(InputError, match=f"{file}: cannot read record 2: No such file"):
        reader[2]


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit of a file without a change of its size and its time of modification."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("is_indexed", [True, False])
def test_every_flipped_bit_is_an_error(tmp_path: Path, is_indexed: bool) -> None:
    payloads = [b"one", b"", b"three"]
    path = write_records(tmp_path / "a.tfrecord", payloads)
    ends = np.cumsum([16 + len(payload) for payload in payloads]).tolist()
    # With offsets in the cache, headers are only read with their records.
    reader = RecordFiles([Part(str(path))])
    assert [reader[index] for index in range(3)] == payloads
    for position in range(ends[-1]):
        flip(path, position, position % 8)
        damaged = int(np.searchsorted(ends, position, side="right"))
        for index in range(3):
            if index == damaged:
                with pytest.raises(InputError, match=f"^{path}: record {index} at byte ") as error:
                    read_one(path, index, reader if is_indexed else None)
                assert "\n" not in str(error.value)
            elif is_indexed:
                assert reader[index] == payloads[index]
        flip(path, position, position % 8)
    assert reader[1] == b""


def read_one(path: Path, index: int, reader: RecordFiles | None) -> bytes:
    if reader is None:
        shutil.rmtree(path.parent / ".tcvit_index", ignore_errors=True)
        reader = RecordFiles([Part(str(path))])
    return reader[index]


def test_checksums_are_not_verified_on_request(file: Path) -> None:
    reader, careful = RecordFiles([Part(str(file))], verify=False), RecordFiles([Part(str(file))])
    flip(file, 12, 0)
    assert pickle.loads(pickle.dumps(reader))[0] == b"nne"
    with pytest.raises(InputError) as error:
        pickle.loads(pickle.dumps(careful))[0]
    assert str(error.value) == (
        f"{file}: record 0 at byte 0: wrong checksum of the payload; replace the file, or set data.verify=False"
    )


def test_pipes_in_place_of_files_are_not_opened(tmp_path: Path, file: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert one_line_error(tmp_path / "pipe") == f"{tmp_path / 'pipe'}: expected a TFRecord file, got a pipe"
    # A pipe in place of the index is replaced.
    read_index(str(file))
    index = tmp_path / ".tcvit_index" / "a.tfrecord.npy"
    index.unlink()
    os.mkfifo(index)
    assert read_all(file) == PAYLOADS
    assert index.is_file()


@pytest.mark.parametrize("offsets", [[16], [0, 8, 100], [0, 200, 100, 836], [1, 836], [0, 835]])
def test_index_of_impossible_offsets_is_rebuilt(file: Path, offsets: list[int]) -> None:
    expected = read_index(str(file)).tolist()
    index = file.parent / ".tcvit_index" / "a.tfrecord.npy"
    stamp = np.load(index)[:3].tolist()
    np.save(index, np.array([*stamp, *offsets], np.int64))
    assert read_index(str(file)).tolist() == expected
