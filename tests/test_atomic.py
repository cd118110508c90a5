"""Atomic writing: after an error or a kill, the old content remains, if any."""

import errno
import os
import signal
import subprocess
import sys

import pytest

import tcvit_jax as tc
from tcvit_jax import atomic
from tests.conftest import ROOT


def test_file_replaces_the_old_one_and_creates_missing_parents(tmp_path):
    path = tmp_path / "new" / "folder" / "values.json"
    for values in ({"x": 1}, {"x": [2, None]}):
        atomic.write_json(path, values)
        assert os.listdir(path.parent) == ["values.json"]
    assert path.read_text() == '{\n  "x": [\n    2,\n    null\n  ]\n}\n'


def test_directory_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with atomic.write(path) as draft:
        draft.mkdir()
        (draft / "inside").write_text("text")
        assert not list(path.iterdir())
    assert os.listdir(tmp_path) == ["folder"]
    assert (path / "inside").read_text() == "text"


def test_relative_path_is_resolved_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic.write_text("values.txt", "text")
    assert (tmp_path / "values.txt").read_text() == "text"


def test_drafts_are_unique_and_keep_the_suffix(tmp_path):
    path = tmp_path / "picture.png"
    with atomic.write(path) as first, atomic.write(path) as second:
        assert first != second
        assert {first.suffix, second.suffix} == {".png"}
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


def fail(path, error, makes_directory=False):
    """Start to write a file or a directory, and raise `error`."""
    with atomic.write(path) as draft:
        if makes_directory:
            draft.mkdir()
            draft /= "inside"
        draft.write_text("partial")
        raise error


@pytest.mark.parametrize("makes_directory", [False, True])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("INTERNAL: RESOURCE_EXHAUSTED, No space left on device\n  at line 3"), "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "/a/draft"), "Read-only file system"),
        (ValueError("first\nsecond"), "first"),
        (KeyError(), "KeyError"),
    ],
)
def test_write_error_is_one_line_and_leaves_no_new_files(tmp_path, error, message, makes_directory):
    (tmp_path / "old").write_text("old")
    for path in (tmp_path / "old", tmp_path / "new" / "folder" / "path"):
        with pytest.raises(tc.InputError) as excinfo:
            fail(path, error, makes_directory)
        assert str(excinfo.value) == f"{path}: cannot be written: {message}"
    assert os.listdir(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), tc.InputError("lr=-1: must be >= 0")])
def test_interruptions_and_input_errors_are_raised_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as excinfo:
        fail(tmp_path / "new" / "file", error)
    assert excinfo.value is error
    assert not list(tmp_path.iterdir())


def test_parent_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tc.InputError, match="file/values.txt: cannot be written: (File exists|Not a directory)$"):
        atomic.write_text(tmp_path / "file" / "values.txt", "text")


KILLED = """
import os, pathlib, signal, sys
from tcvit_jax import atomic
with atomic.write(sys.argv[1]) as draft:
    draft.write_text("partial")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_leaves_the_old_content(tmp_path):
    path = tmp_path / "values.txt"
    path.write_text("old")
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
