"""Tests of random access to TFRecord files that are written by hand, checksums included."""

import gzip
import multiprocessing
import os
import pickle
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
    """The user's cache, elsewhere and empty."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_records(tmp_path / "a.tfrecord", PAYLOADS)


@pytest.fixture
def no_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading headers is an error."""

    def scan(path: str, size: int) -> list[int]:
        raise AssertionError(f"the headers of {path} were read")

    monkeypatch.setattr(record_index, "scan", scan)


def read_all(path: object) -> list[bytes]:
    found = RecordFiles([Part(str(path))])
    return [found[index] for index in range(len(found))]


def one_line_error(path: object, total: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        RecordFiles([Part(str(path), total=total)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    for data in (b"", b"123456789", struct.pack("<Q", 12345), bytes(32)):
        assert struct.pack("<I", masked_crc32c(data)) == checksum(data)


@settings(max_examples=50)
@given(st.lists(st.lists(st.binary(max_size=60), max_size=8), min_size=1, max_size=4), st.data())
def test_every_record_of_every_part_is_read(files: list[list[bytes]], data: st.DataObject) -> None:
    expected, parts = [], []
    with tempfile.TemporaryDirectory() as directory:
        for number, payloads in enumerate(files):
            path = write_records(Path(directory) / f"{number}.tfrecord", payloads)
            skip = data.draw(st.integers(0, len(payloads)))
            take = data.draw(st.none() | st.integers(0, len(payloads) - skip))
            parts.append(Part(str(path), skip, take, len(payloads)))
            expected += payloads[skip:] if take is None else payloads[skip : skip + take]
        found = RecordFiles(parts)
        assert len(found) == len(expected)
        assert [found[index] for index in range(len(found))] == expected
        with pytest.raises(IndexError):
            found[len(found)]
        with pytest.raises(IndexError):
            found[-1]


def test_a_place_is_the_number_in_the_file(tmp_path: Path) -> None:
    paths = [str(write_records(tmp_path / name, PAYLOADS)) for name in ("a", "b")]
    found = RecordFiles([Part(paths[0], 1, 2), Part(paths[1], 3)])
    places = [f"record 1 of {paths[0]}", f"record 2 of {paths[0]}", f"record 3 of {paths[1]}"]
    assert [found.place(index) for index in range(3)] == places


def test_a_pickle_is_small_and_reads_the_same(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a", [b"%d" % number for number in range(3000)])
    found = RecordFiles([Part(str(path))])
    assert found[2999] == b"2999"
    data = pickle.dumps(found)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert len(copy) == 3000 and copy[17] == b"17" and copy[2999] == b"2999"


def test_threads_share_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MOST_OPEN", 3)
    paths = [write_records(tmp_path / str(number), [b"%d" % number] * 5) for number in range(10)]
    found = RecordFiles([Part(str(path)) for path in paths])
    order = np.random.default_rng(0).integers(0, 50, 2000).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(found.__getitem__, order)) == [b"%d" % (index // 5) for index in order]
    open_now = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
    assert sum(name.startswith(str(tmp_path)) for name in open_now) <= 3


def _is_link(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def test_processes_index_and_read_at_once(tmp_path: Path) -> None:
    payloads = [b"%d" % number for number in range(500)]
    path = write_records(tmp_path / "a.tfrecord", payloads)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(read_all, [path] * 4, chunksize=1) == [payloads] * 4
    assert [entry.name for entry in (tmp_path / ".tcvit_index").iterdir()] == ["a.tfrecord.npy"]


def test_the_index_lies_beside_the_data_and_is_used_again(file: Path, request: pytest.FixtureRequest) -> None:
    starts = read_index(str(file))
    lengths = [len(payload) + 16 for payload in PAYLOADS]
    assert starts.dtype == np.int64 and starts.tolist() == [0, *np.cumsum(lengths)]
    assert (file.parent / ".tcvit_index" / "a.tfrecord.npy").is_file()
    request.getfixturevalue("no_scans")
    np.testing.assert_array_equal(read_index(str(file)), starts)
    assert read_all(file) == PAYLOADS


def test_the_index_is_in_the_cache_where_the_data_are_read_only(
    file: Path, cache: Path, request: pytest.FixtureRequest
) -> None:
    (file.parent / ".tcvit_index").write_text("no directory can be made here")
    assert read_all(file) == PAYLOADS
    (kept,) = cache.rglob("*.npy")
    assert kept.name == "a.tfrecord.npy"
    request.getfixturevalue("no_scans")
    assert read_all(file) == PAYLOADS


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_directory_without_permission_to_write(file: Path, cache: Path) -> None:
    file.parent.chmod(0o555)
    try:
        assert read_all(file) == PAYLOADS
    finally:
        file.parent.chmod(0o755)
    assert len(list(cache.rglob("*.npy"))) == 1


def test_nowhere_to_keep_an_index_is_no_error(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / ".tcvit_index").write_text("no directory can be made here")
    (cache / "file").write_text("nor here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    found = RecordFiles([Part(str(file))])
    assert pickle.loads(pickle.dumps(found))[2] == PAYLOADS[2]


def test_a_full_disk_leaves_no_draft(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", refuse)
    assert read_all(file) == PAYLOADS
    assert not [path for root in (file.parent, cache) for path in root.rglob("*npy*")]


def test_namesakes_have_an_index_each(tmp_path: Path, cache: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tcvit_index").write_text("")
        write_records(tmp_path / name / "x.tfrecord", [name.encode()])
    assert [read_all(tmp_path / name / "x.tfrecord") for name in ("a", "b")] == [[b"a"], [b"b"]]
    assert len(list(cache.rglob("x.tfrecord.npy"))) == 2


def test_the_index_is_made_again_when_the_file_changes(file: Path) -> None:
    assert read_all(file) == PAYLOADS
    status = file.stat()
    write_records(file, PAYLOADS[:2])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # only the size tells
    assert read_all(file) == PAYLOADS[:2]
    write_records(file, [b"on", b"e"])
    write_records(file, [b"o", b"ne"])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # only the time tells
    assert read_all(file) == [b"o", b"ne"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY\x01\x00", pickle.dumps([1, 2]), b"PK\x03\x04"])
def test_a_damaged_index_is_made_again(file: Path, content: bytes) -> None:
    place = file.parent / ".tcvit_index" / "a.tfrecord.npy"
    place.parent.mkdir()
    place.write_bytes(content)
    assert read_all(file) == PAYLOADS
    assert np.load(place).dtype == np.int64


@pytest.mark.parametrize("kept", [np.zeros(2, np.int64), np.zeros((4, 4), np.int64), np.zeros(9), np.int64(1)])
def test_an_index_of_something_else_is_made_again(file: Path, kept: np.ndarray) -> None:
    place = file.parent / ".tcvit_index" / "a.tfrecord.npy"
    place.parent.mkdir()
    np.save(place, kept)
    assert read_all(file) == PAYLOADS


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert one_line_error(path) == f"cannot read records of {path}: No such file or directory"
    assert f"cannot read records of {tmp_path}: " in one_line_error(tmp_path)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert read_all(write_records(tmp_path / "a", [])) == []
    assert len(RecordFiles([])) == 0


@pytest.mark.parametrize("cut", [1, 4, 200, 256 + 4 + 11, 256 + 4 + 5])
def test_a_truncated_file(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:-cut])
    message = one_line_error(file)
    assert f"cannot read records of {file}: record 3, at byte 551, is cut off" in message


def test_a_damaged_length(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[19] ^= 1  # the length of the second record
    file.write_bytes(content)
    assert f"{file}: record 1, at byte 19, has a damaged length" in one_line_error(file)


@pytest.mark.parametrize("content", [b"<html>404 not found</html>", bytes(1000)])
def test_what_is_no_record_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert "or the file is no TFRecord" in one_line_error(path)
    assert not (tmp_path / ".tcvit_index").exists()


def test_a_compressed_file_says_so(file: Path) -> None:
    file.write_bytes(gzip.compress(file.read_bytes()))
    assert "it is compressed with gzip; unpack it" in one_line_error(file)


def test_another_number_of_records(file: Path) -> None:
    assert f"{file} has 4 records where 5 were expected" in one_line_error(file, total=5)


def test_a_file_that_changes_under_a_copy(file: Path) -> None:
    copy = pickle.loads(pickle.dumps(RecordFiles([Part(str(file))])))
    write_records(file, PAYLOADS[:1])
    with pytest.raises(InputError, match="has 1 records where 4 were expected"):
        copy[0]


def test_a_file_that_shrinks_after_it_was_opened(file: Path) -> None:
    found = RecordFiles([Part(str(file))])
    assert found[0] == PAYLOADS[0]
    os.truncate(file, 100)
    with pytest.raises(InputError, match=rf"cannot read record 2 of {file}: it has 53 bytes of 500"):
        found[2]


def test_a_file_that_vanishes_before_it_is_opened(file: Path) -> None:
    found = RecordFiles([Part(str(file))])
    file.unlink()
    with pytest.raises(InputError, match=f"cannot read record 2 of {file}: No such file"):
        found[2]
