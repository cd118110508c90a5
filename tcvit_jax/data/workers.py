"""Worker processes for decoding: their number, their end, and the shared memory through which they send batches.

Grain spawns the workers, and they import this module again, so importing it must do no work.
"""

import atexit
import gc
import math
import multiprocessing
import multiprocessing.util
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import FrameType
from typing import TypeVar

from tcvit_jax.data.sources.base import Source
from tcvit_jax.data.sources.images import refuse_large_images
from tcvit_jax.errors import InputError, first_line, invalid

MAX_DEFAULT_WORKERS = 16
"""The largest default number of workers, each of which holds several batches."""
MAX_WORKERS_PER_CORE = 4
TERMINATION_GRACE_S = 60
"""Seconds between `SIGTERM` and the end of a worker: schedulers send the signal to all processes of a job, and the main
process still needs batches until it has saved its checkpoint."""
_END_TIMEOUT_S = 5
# Signals that a terminal or a scheduler sends to all processes of a job.
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The exit status of a shell's child that was ended by SIGTERM.
_TERMINATED = 128 + signal.SIGTERM
_DEAD_WORKER = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")

_Batch = TypeVar("_Batch")

_iterators: "weakref.WeakSet[Generator[object, None, None]]" = weakref.WeakSet()


def resolve_workers(workers: int | None, source: Source) -> int:
    """Return the number of worker processes to start.

    Args:
        workers: The number that was requested, or None for as many as there are cores, at most `MAX_DEFAULT_WORKERS`.
        source: The examples. None of them has to be decoded if they are in memory, so that the default is 0.

    Returns:
        The number, at most `MAX_WORKERS_PER_CORE` per core.
    """
    cores = available_cores()
    if workers is None:
        return 0 if source.is_in_memory else min(cores, MAX_DEFAULT_WORKERS)
    return min(workers, MAX_WORKERS_PER_CORE * cores)


def describe_workers(workers: int | None, count: int) -> str:
    """Return a phrase such as `2 workers`, with the reason if it is not the number that was requested.

    Args:
        workers: The number that was requested, or None for the default.
        count: The number that `resolve_workers` returned.
    """
    text = f"{count} worker{'' if count == 1 else 's'}"
    if workers is None or workers == count:
        return text
    return f"{text} (data.workers={workers} exceeds {MAX_WORKERS_PER_CORE} per core)"


def available_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and the quota of its control groups."""
    # Python 3.13 has os.process_cpu_count.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(_cpu_quotas(), default=cores))))


def _cpu_quotas(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Yield the limits, in cores, of the control groups of this process and of the groups that contain them."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 has one hierarchy, version 1 one for each controller.
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        # In a container, the path may be that outside of it, and only the root is there.
        group = top / path.lstrip("/")
        for directory in dict.fromkeys((group, *group.parents, top)):
            if directory.is_relative_to(top):
                yield from _cpu_quota(directory)


def _cpu_quota(directory: Path) -> Iterator[float]:
    """Yield the limit of one control group, if it has one."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((directory / name).read_text() for name in names).split()
            limit = float(quota) / float(period)
        except (OSError, ValueError):  # The group has no limit, which is `max`, or another version.
            continue
        if limit > 0:
            yield limit


def start_worker(worker: int, workers: int) -> None:
    """Prepare a worker process, before it reads its first example.

    The process ends with its parent, even if the parent is killed. It ignores `SIGINT` and `SIGHUP`, which a terminal
    sends to all processes, and ends `TERMINATION_GRACE_S` seconds after `SIGTERM`.

    Args:
        worker: The index of the worker. Grain passes it; it has no effect.
        workers: The number of workers. Likewise.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _end)
    signal.signal(signal.SIGTERM, _end_after_grace)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    _end_with_parent()
    refuse_large_images()


def _end_after_grace(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(TERMINATION_GRACE_S)


def _end(number: int, frame: FrameType | None) -> None:
    """End this process, as the handler of `SIGALRM`. The resource tracker removes its shared memory.

    The tracker does not know of shared memory whose constructor has not finished, so let that finish.
    """
    while frame is not None:
        if frame.f_code is SharedMemory.__init__.__code__:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            return
        frame = frame.f_back
    os._exit(_TERMINATED)


def _end_with_parent() -> None:
    """End this process, a child of `multiprocessing`, as soon as its parent has ended.

    The signal of `prctl(PR_SET_PDEATHSIG)` would come too early: it is sent when the thread that started this process
    ends, and Grain ends that thread before it tells the worker to remove its shared memory.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        watch = threading.Thread(target=_wait_for_end, args=(parent.sentinel, parent.pid), name="watch-parent")
        watch.daemon = True
        watch.start()


def _wait_for_end(sentinel: int, parent: int) -> None:
    """End this process when the parent ends, which closes the pipe `sentinel` and gives this process another parent.

    A process that the parent forked may hold the pipe open, so look at the parent's number as well.
    """
    while os.getppid() == parent and not connection.wait([sentinel], timeout=1):
        pass
    os.kill(os.getpid(), signal.SIGALRM)
    # Python runs the handler in the main thread, which may wait for a disk that does not answer.
    time.sleep(_END_TIMEOUT_S)
    os._exit(_TERMINATED)


def close_at_exit(iterator: "Generator[object, None, None]") -> None:
    """Close an iterator over batches of workers when the interpreter exits, if it still exists then.

    Grain itself would stop the workers after it has stopped the thread that removes their shared memory.

    Args:
        iterator: The iterator. No reference to it is kept.
    """
    _iterators.add(iterator)


# The functions that were registered last run first. Those of multiprocessing.util, imported above, stop the threads.
@atexit.register
def _close_all() -> None:
    for iterator in list(_iterators):
        # Another thread may be waiting for its next batch.
        with suppress(ValueError):
            iterator.close()


def start_workers(iterator: Iterator[_Batch]) -> _Batch:
    """Return the first batch of a Grain iterator over batches of workers, which starts them.

    A scheduler may send `SIGTERM` to all processes of a job while a worker is still importing its modules. The signal
    is blocked until `start_worker` handles it: threads and processes inherit the blocked signals of the thread that
    starts them.
    """
    # Starting the resource tracker would unblock the signals.
    resource_tracker.ensure_running()
    with ThreadPoolExecutor(1, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, _HANDLED)) as starter:
        return starter.submit(next, iterator).result()


def remove_shared_memory() -> None:
    """Remove the shared memory of all batches that were dropped.

    Grain removes it in a thread. If the interpreter exits before the thread is done, the shared memory is reported as
    leaked. Grain's exceptions, such as that at the end of the data, refer to the last batch of a worker and to
    themselves, so that only the garbage collector finds them.
    """
    from grain.multiprocessing import SharedMemoryArray

    pool = getattr(SharedMemoryArray, "_del_thread_pool", None)
    if pool is None:
        gc.collect()
        return
    # The garbage collector closes shared memory at the same time as the thread would.
    SharedMemoryArray._del_thread_pool = None
    try:
        gc.collect()
    finally:
        SharedMemoryArray._del_thread_pool = pool
    # The pool has one thread, so this call returns after all earlier ones. A pool that was stopped raises.
    with suppress(ValueError):
        pool.apply(int)


def clear_frames(error: BaseException) -> None:
    """Clear the variables of the calls that an exception has left, which may refer to batches in shared memory.

    Args:
        error: The exception. Grain removes its own calls from the traceback, but those that remain refer to them.
    """
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        while frame is not None:
            # A call that has not returned cannot be cleared.
            with suppress(RuntimeError):
                frame.clear()
            frame = frame.f_back
        trace = trace.tb_next


def worker_error(error: RuntimeError) -> InputError | None:
    """Return the error for a worker that ended before its work was done, or None if `error` says something else.

    Args:
        error: What Grain raised.
    """
    match = _DEAD_WORKER.match(first_line(error))
    if match is None:
        return None
    status = int(match[1])
    if status == -signal.SIGKILL:
        return invalid("data.workers", "a decoding process was killed", "if memory ran out, use fewer")
    if status < 0 or status == _TERMINATED:
        name = signal.SIGTERM.name if status == _TERMINATED else signal.Signals(-status).name
        return invalid("data.workers", f"a decoding process was ended by {name}")
    hint = "if it could not start, call this under if __name__ == '__main__', or use 0"
    return invalid("data.workers", f"a decoding process ended with status {status}", hint)
