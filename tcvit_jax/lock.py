"""Locks of output directories, so that two commands never write to the same one.

A lock is a file that its holder keeps locked with `flock`, which the kernel releases when the holder dies. The holder
also refreshes the modification time of the file, as a sign of life for other hosts of a shared disk, where `flock` may
work within one host only.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tcvit_jax import atomic
from tcvit_jax.errors import cannot_write, invalid

# Seconds between two signs of life, and the age after which the holder of a lock on another host counts as dead. NFS
# may show a modification time that is up to 60 seconds old.
HEARTBEAT, GRACE = 15.0, 180.0
_NOT_SUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def in_directory(directory: str | Path) -> Path:
    """Return the lock file of a directory that is written to over time, such as a run directory."""
    return Path(directory) / ".lock"


def beside(path: str | Path) -> Path:
    """Return the lock file of a file or directory that appears when it is complete, in its parent directory.

    Raises:
        InputError: The path is the root of the file system.
    """
    path = Path(path).absolute()
    if not path.name:
        raise cannot_write(path, "it is the root of the file system", "choose another path")
    return path.with_name(f".{path.name}.lock")


@contextmanager
def hold(file: Path, subject: str | Path, hint: str) -> Generator[str]:
    """Hold a lock during the block.

    Missing parent directories are created, and removed again if they are empty at the end. A process that dies leaves
    the lock file behind; the next process takes it over.

    Args:
        file: The lock file, from `in_directory` or `beside`.
        subject: What the lock protects, for messages.
        hint: What to do instead of waiting, for the error message.

    Yields:
        A notice that the lock of a dead process was taken over, or an empty string.

    Raises:
        InputError: Another process holds the lock. The message names its host, its process and its start time. Nothing
            was changed.
    """
    with ExitStack() as stack:
        with atomic.write_errors(subject):
            stack.enter_context(atomic.parent_directories(file))
            descriptor, notice = _acquire(file, subject, hint)
        stop = threading.Event()
        thread = threading.Thread(target=_refresh, args=(descriptor, stop), daemon=True, name="lock heartbeat")
        thread.start()
        try:
            yield notice
        finally:
            stop.set()
            thread.join()
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)


def _acquire(file: Path, subject: str | Path, hint: str) -> tuple[int, str]:
    """Open and lock a lock file and write this process into it; return its descriptor and the notice of `hold`."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            is_locked, is_supported = _try_flock(descriptor)
            holder, age = _read_holder(descriptor), time.time() - os.fstat(descriptor).st_mtime
            if not is_locked or (holder and age < GRACE and (not is_supported or holder["host"] != _host())):
                raise invalid(subject, f"in use by {_describe(holder)}", f"wait until it has ended, or {hint}")
            # The previous holder may have removed the file after it was opened here.
            if _is_at(descriptor, file):
                _write_holder(descriptor)
                notice = f"{subject}: taken over from {_describe(holder)}, which has died" if holder else ""
                return descriptor, notice
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _try_flock(descriptor: int) -> tuple[bool, bool]:
    """Try to lock an open file; return whether no other process has it locked, and whether the disk supports locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False, True
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        return True, False
    return True, True


def _is_at(descriptor: int, file: Path) -> bool:
    """Return whether an open file is still the file at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False


def _host() -> str:
    return socket.gethostname()


def _write_holder(descriptor: int) -> None:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    text = json.dumps({"host": _host(), "process": os.getpid(), "since": since})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)
    # Other hosts see the content after this.
    os.fsync(descriptor)


def _read_holder(descriptor: int) -> dict[str, Any]:
    """Return the host, process and start time in an open lock file; empty if there are none, as in a new file."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return {key: holder[key] for key in ("host", "process", "since")}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['process']} on {holder['host']} since {holder['since']}"


def _refresh(descriptor: int, stop: threading.Event) -> None:
    """Refresh the modification time of an open file until `stop` is set."""
    while not stop.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(descriptor)
