"""Worker processes end with their parent, answer signals, and leave no shared memory."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcvit_jax.data import Batch, TrainTransform, describe_workers, open_source, resolve_workers, train_batches
from tcvit_jax.data import workers as workers_module
from tcvit_jax.errors import InputError
from tests.processes import SHARED_MEMORY, children, is_running, wait_until

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="reads /proc and /dev/shm")

# Python makes names of at most 14 characters.
PREFIX = f"/{os.getpid()}_"
# Workers import the program again, so that the names of their shared memory have the same prefix.
PROGRAM = """
import multiprocessing.shared_memory, sys
from tcvit_jax.data import EvalTransform, TrainTransform, eval_batches, open_source, train_batches

multiprocessing.shared_memory._SHM_NAME_PREFIX = sys.argv[1]

def start(workers):
    batches = train_batches(SOURCE, TrainTransform((64, 64), mode="shift"), batch_size=64, seed=0, workers=workers)
    for _ in range(3):
        next(batches)
    return batches

if __name__ == "__main__":
    SOURCE = open_source("digits", "val")
    abandoned = start(2)
"""
ENDS = """
    closed = start(1)
    closed.close()
    deleted = start(1)
    del deleted
    unreadable = type(SOURCE)("val")
    unreadable._labels = unreadable._labels.astype(object)
    unreadable._labels[200:] = None
    try:
        list(eval_batches(unreadable, EvalTransform((64, 64)), batch_size=16, workers=2))
    except TypeError:
        pass
    assert len(list(eval_batches(SOURCE, EvalTransform((64, 64)), batch_size=64, workers=2))) == 6
"""
RUN = """
    print("ready", flush=True)
    for _ in abandoned:
        pass
"""


def start_program(tmp_path: Path, body: str, head: str = PROGRAM) -> subprocess.Popen[str]:
    script = tmp_path / "program.py"
    script.write_text(head + body)
    command = [sys.executable, str(script), PREFIX]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def shared_memory() -> list[str]:
    return [path.name for path in SHARED_MEMORY.glob(f"{PREFIX[1:]}*")]


def test_nothing_is_left_after_the_parent_is_killed(tmp_path: Path) -> None:
    process = start_program(tmp_path, RUN)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    processes = children(process.pid)
    assert len(processes) == 3 and shared_memory()
    process.kill()
    wait_until(lambda: not any(map(is_running, processes)))
    assert not shared_memory()
    # The resource tracker says what it removed.
    assert "leaked shared_memory objects to clean up" in process.communicate()[0]


@pytest.mark.slow
def test_workers_that_are_still_starting_do_not_end_at_once_when_all_processes_are_terminated(tmp_path: Path) -> None:
    """The program, which would save a checkpoint, handles the signal."""
    handle = "import signal; signal.signal(signal.SIGTERM, lambda *_: None)\n"
    process = start_program(
        tmp_path, RUN, PROGRAM.replace('if __name__ == "__main__":\n', f'if __name__ == "__main__":\n    {handle}')
    )
    try:
        wait_until(lambda: len(children(process.pid)) == 3, 60)
        for pid in [process.pid, *children(process.pid)]:
            os.kill(pid, signal.SIGTERM)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_no_shared_memory_is_reported_as_leaked(tmp_path: Path) -> None:
    """Iterators are exhausted, closed, deleted, failed, and abandoned half-way until the interpreter exits."""
    process = start_program(tmp_path, ENDS)
    output, _ = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "")
    assert not shared_memory()


def sleep_in_worker(grace: int) -> None:
    workers_module.TERMINATION_GRACE_S = grace
    workers_module.start_worker(0, 1)
    print("ready", flush=True)
    time.sleep(60)


def test_worker_ignores_interrupts_and_ends_some_time_after_termination(capfd: pytest.CaptureFixture[str]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=sleep_in_worker, args=(2,))
    process.start()
    output = ""

    def is_ready() -> bool:
        nonlocal output
        output += capfd.readouterr().out
        return "ready" in output

    wait_until(is_ready, 60)
    assert process.pid is not None
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, number)
    process.join(0.5)
    assert process.is_alive()
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM


def take_all(batches: Iterator[Batch]) -> None:
    for _ in batches:
        pass


def test_killed_worker_is_a_one_line_error() -> None:
    source, transform = open_source("digits", "val"), TrainTransform((16, 16), channels=1, mode="shift")
    batches = train_batches(source, transform, batch_size=8, seed=0, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    # Wait until its buffers are full: no one removes shared memory that it is about to create.
    time.sleep(0.5)
    worker.kill()
    with pytest.raises(InputError) as error:
        take_all(batches)
    assert str(error.value) == "data.workers: a decoding process was killed; if memory ran out, use fewer"


@pytest.mark.slow
def test_worker_that_cannot_start_is_a_one_line_error(tmp_path: Path) -> None:
    """A program without `if __name__ == "__main__"` cannot be imported by its workers."""
    process = start_program(tmp_path, "", PROGRAM.replace('if __name__ == "__main__":', "if True:"))
    output, _ = process.communicate(timeout=120)
    error = "data.workers: a decoding process ended with status 1; if it could not start, call this under if __name__ == '__main__', or use 0"
    assert output.splitlines()[-1] == f"tcvit_jax.errors.InputError: {error}"


class FileSource:
    is_in_memory = False


@pytest.mark.parametrize(
    ("cores", "workers", "count", "text"),
    [
        (2, None, 2, "2 workers"),
        (96, None, 16, "16 workers"),
        (1, 1, 1, "1 worker"),
        (2, 0, 0, "0 workers"),
        (2, 8, 8, "8 workers"),
        (2, 9, 8, "8 workers (data.workers=9 exceeds 4 per core)"),
        (2, 3000, 8, "8 workers (data.workers=3000 exceeds 4 per core)"),
    ],
)
def test_workers_are_limited_by_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int | None, count: int, text: str
) -> None:
    monkeypatch.setattr(workers_module, "available_cores", lambda: cores)
    assert resolve_workers(workers, FileSource()) == count
    assert describe_workers(workers, count) == text
    digits = open_source("digits", "val")
    assert resolve_workers(workers, digits) == (0 if workers is None else count)


def test_too_many_workers_are_refused_before_any_starts() -> None:
    source, transform = open_source("digits", "val"), TrainTransform((16, 16), channels=1, mode="shift")
    with pytest.raises(InputError, match=r"^workers=3000: must be <= \d+, 4 per core$"):
        train_batches(source, transform, batch_size=8, seed=0, workers=3000)


def test_available_cores_follow_the_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from tcvit_jax.data import workers; print(workers.available_cores())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert output.stdout == "1\n"


@pytest.mark.parametrize(
    ("groups", "limits", "quotas"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "cpu.max": "max 100000"}, [1.5]),
        ("0::/a/b\n", {"cpu.max": "400000 100000\n"}, [4.0]),
        ("4:memory:/x\n3:cpuacct,cpu:/d\n0::/\n", {"cpuacct,cpu/d/cpu.cfs_quota_us": "50000", "cpuacct,cpu/d/cpu.cfs_period_us": "100000"}, [0.5]),
        # The quota -1 is none, and the path is that outside of the container.
        ("3:cpu:/outside/y\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("3:cpu:/outside/y\n", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, [3.0]),
    ],
)  # fmt: skip
def test_quotas_of_control_groups_are_read(
    tmp_path: Path, groups: str, limits: dict[str, str], quotas: list[float]
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in limits.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(workers_module._cpu_quotas(tmp_path / "groups", tmp_path / "root")) == quotas
    assert list(workers_module._cpu_quotas(tmp_path / "missing", tmp_path / "root")) == []
