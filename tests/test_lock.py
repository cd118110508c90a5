"""Locks: one process at a time, named to all others, and the locks of dead processes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

import tcvit_jax as tc
from tcvit_jax import lock
from tests.conftest import ROOT

# Prints "locked" and holds the lock until standard input is closed.
HOLD = """
import sys
from pathlib import Path
from tcvit_jax import lock
with lock.hold(Path(sys.argv[1]), "runs/x", "choose another") as notice:
    print(notice or "locked", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(file):
    """A process that holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.communicate()


def hold(file):
    return lock.hold(file, "runs/x", "choose another")


def test_second_process_is_refused_in_one_line_that_names_the_first(tmp_path):
    file = lock.in_directory(tmp_path / "runs" / "x")
    with holder(file) as process:
        before = file.read_bytes(), file.stat().st_mtime_ns, os.listdir(file.parent)
        names = f"in use by process {process.pid} on {re.escape(socket.gethostname())} since 20"
        for _ in range(2):
            with pytest.raises(tc.InputError, match=f"runs/x: {names}.*; wait until it has ended, or choose"):
                hold(file).__enter__()
        assert (file.read_bytes(), file.stat().st_mtime_ns, os.listdir(file.parent)) == before
    # A normal end leaves nothing, and the lock is free.
    assert os.listdir(tmp_path) == []
    with hold(file) as notice:
        assert notice == ""


def test_lock_is_refused_within_a_process(tmp_path):
    with hold(tmp_path / ".lock"), pytest.raises(tc.InputError, match=f"process {os.getpid()} on"):
        hold(tmp_path / ".lock").__enter__()


def test_lock_of_a_killed_process_is_taken_over_with_a_notice(tmp_path):
    with holder(tmp_path / ".lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with hold(tmp_path / ".lock") as notice:
        assert re.fullmatch(rf"runs/x: taken over from process {process.pid} on .* since .*, which has died", notice)
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert os.listdir(tmp_path) == []


def write_lock_of_another_host(file, age):
    file.write_text(json.dumps({"host": "another-host", "process": 7, "since": "2026-01-01 00:00:00+00:00"}))
    os.utime(file, (time.time() - age,) * 2)


def test_lock_of_another_host_is_taken_over_after_the_grace_time(tmp_path):
    # The lock of this host's kernel does not show whether a process on another host lives.
    file = tmp_path / ".lock"
    write_lock_of_another_host(file, lock.GRACE - 5)
    with pytest.raises(tc.InputError, match="in use by process 7 on another-host since 2026"):
        hold(file).__enter__()
    assert json.loads(file.read_text())["host"] == "another-host"
    write_lock_of_another_host(file, lock.GRACE + 5)
    with hold(file) as notice:
        assert "taken over from process 7 on another-host" in notice


def test_holder_shows_that_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    file = tmp_path / ".lock"
    with hold(file):
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - file.stat().st_mtime < 60


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"host": "x"}', b"[" * 5000])
def test_damaged_lock_file_is_replaced(content, tmp_path):
    (tmp_path / ".lock").write_bytes(content)
    with hold(tmp_path / ".lock"):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_disk_without_locks_relies_on_the_signs_of_life(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    file = tmp_path / ".lock"
    with hold(file):
        with pytest.raises(tc.InputError, match=f"in use by process {os.getpid()}"):
            hold(file).__enter__()
        os.utime(file, (0, 0))
        with hold(file) as notice:
            assert "taken over" in notice


def test_directory_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tc.InputError, match="cannot be written"):
        hold(lock.in_directory(tmp_path / "file")).__enter__()


def test_many_processes_never_hold_a_lock_together(tmp_path):
    # Creating a mark fails if another process has not removed its own yet.
    code = """
import sys, time
from pathlib import Path
from tcvit_jax import InputError, lock
folder = Path(sys.argv[1])
held = 0
deadline = time.monotonic() + 60
while held < 20 and time.monotonic() < deadline:
    try:
        with lock.hold(lock.in_directory(folder), folder, "wait"):
            mark = folder / "mark"
            mark.touch(exist_ok=False)
            mark.unlink()
            held += 1
    except InputError:
        pass
sys.exit(held != 20)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert os.listdir(tmp_path) == []
