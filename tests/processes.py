"""Processes and shared memory that a program leaves behind, from `/proc` and `/dev/shm`."""

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def children(pid: int) -> list[int]:
    """Return the processes that a process started, with its resource tracker.

    The kernel also lists them by thread, in `/proc/PID/task`, but a thread may end while the list is read.
    """
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _parent(path) == pid]


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def shared_memory_of(processes: Iterable[int]) -> set[Path]:
    """Return the files in `/dev/shm` that Python processes have mapped."""
    names: set[str] = set()
    for pid in processes:
        try:
            names.update(re.findall(rf"{SHARED_MEMORY}/(psm_\w+)", Path(f"/proc/{pid}/maps").read_text()))
        except OSError:
            continue
    return {SHARED_MEMORY / name for name in names}


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.05)
