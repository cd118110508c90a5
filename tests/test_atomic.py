"""Atomic writing: after an error or a kill the old content is there, or nothing."""

import errno
import os
import signal
import subprocess
import sys

import pytest

import tcvit_jax as tc
from tcvit_jax import atomic
from tests.conftest import ROOT


def test_a_file_replaces_the_old_one_and_missing_parents_are_created(tmp_path):
    path = tmp_path / "new" / "folder" / "values.json"
    for values in ({"x": 1}, {"x": [2, None]}):
        atomic.write_json(path, values)
        assert os.listdir(path.parent) == ["values.json"]
    assert path.read_text() == '{\n  "x": [\n    2,\n    null\n  ]\n}\n'


def test_a_directory_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with atomic.write(path) as draft:
        draft.mkdir()
        (draft / "inside").write_text("text")
        assert not list(path.iterdir())
    assert os.listdir(tmp_path) == ["folder"]
    assert (path / "inside").read_text() == "text"


def test_a_relative_path_is_written_where_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic.write_text("values.txt", "text")
    assert (tmp_path / "values.txt").read_text() == "text"


def test_drafts_keep_the_suffix_and_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "picture.png"
    with atomic.write(path) as first, atomic.write(path) as second:
        assert first != second
        assert {first.suffix, second.suffix} == {".png"}
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


def fail(path, error, makes_directory=False):
    """Begin to write a file or a directory, and raise `error`."""
    with atomic.write(path) as draft:
        if makes_directory:
            draft.mkdir()
            draft /= "inside"
        draft.write_text("half")
        raise error


@pytest.mark.parametrize("makes_directory", [False, True])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("INTERNAL: RESOURCE_EXHAUSTED, No space left on device\n  at line 3"), "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/a/draft"), "Read-only file system"),
        (ValueError("first\nsecond"), "first"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing_new(tmp_path, error, message, makes_directory):
    (tmp_path / "old").write_text("old")
    for path in (tmp_path / "old", tmp_path / "new" / "folder" / "path"):
        with pytest.raises(tc.InputError) as caught:
            fail(path, error, makes_directory)
        assert str(caught.value) == f"cannot write '{path}': {message}"
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), tc.InputError("lr=-1: must be >= 0")])
def test_interruptions_and_mistakes_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        fail(tmp_path / "new" / "file", error)
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_parent_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tc.InputError, match="^cannot write '.*file/values.txt': (File exists|Not a directory)$"):
        atomic.write_text(tmp_path / "file" / "values.txt", "text")


KILLED = """
import os, pathlib, signal, sys
from tcvit_jax import atomic
with atomic.write(sys.argv[1]) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_the_old_content(tmp_path):
    path = tmp_path / "values.txt"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
