"""Paths and text files of users."""

import os
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax import files


def test_home_and_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("SCRATCH", "/mnt/scratch")
    assert files.expand("~/runs/x", "workdir") == "/home/someone/runs/x"
    assert files.expand("$SCRATCH/${HOME}x", "workdir") == "/mnt/scratch//home/someonex"
    assert files.expand("runs/a~b", "workdir") == "runs/a~b"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("$NOT_SET/x", "environment variable 'NOT_SET' is not set"),
        ("~no_such_user/x", "the home directory of '~no_such_user' is not known"),
    ],
)
def test_what_cannot_be_expanded_is_an_error(path, problem, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(tc.InputError, match=re.escape(f"workdir={path!r}: {problem}")):
        files.expand(path, "workdir")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        (tmp_path / "link").symlink_to("/dev/zero")
        for name, problem in {
            "pipe": "expected a text file, got a pipe",
            "socket": "expected a text file, got a socket",
            "link": "expected a text file, got a device",
            ".": "expected a text file, got a directory",
            "absent": "not found",
            "pipe/x": "Not a directory",
        }.items():
            with pytest.raises(tc.InputError, match=problem):
                files.read_text(tmp_path / name)


@given(
    lines=st.lists(st.text("aé", min_size=1), min_size=1),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
    blanks=st.text(" \t", max_size=3),
    empty=st.integers(0, 3),
)
def test_lines_are_the_same_from_any_editor(tmp_path_factory, lines, ending, mark, blanks, empty):
    path = tmp_path_factory.mktemp("text") / "labels.txt"
    text = ("\ufeff" if mark else "") + ending.join(line + blanks for line in lines) + ending * empty
    path.write_bytes(text.encode())
    assert files.read_lines(path) == lines


def test_text_of_another_encoding_is_an_error(tmp_path):
    (tmp_path / "labels.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(tc.InputError, match=r"not UTF-8 text \(byte 0\); save it as UTF-8"):
        files.read_text(tmp_path / "labels.txt")
