"""Processes and shared memory that a program leaves behind, from `/proc` and `/dev/shm`."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def run_until_logged(module: str, arguments: list[str], log: Path, lines: int) -> list[str]:
    """Run a module in a process, kill it once its log has some lines, and return the complete lines of the log."""
    process = subprocess.Popen([sys.executable, "-W", "error", "-m", module, *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (log.is_file() and log.read_text().count("\n") >= lines):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


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
