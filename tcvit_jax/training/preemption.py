"""Handling of preemption: on `SIGTERM`, Ctrl-C or a closed terminal the run saves a checkpoint and exits."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from types import FrameType, TracebackType
from typing import Any, TextIO

import jax
from jax.experimental import multihost_utils

from tcvit_jax.interrupts import announce_saving, raise_interrupt

# EX_TEMPFAIL of sysexits.h: a temporary failure; the same command may be run again.
EXIT_STATUS = 75


class Preempted(Exception):
    """A preempted run, saved after `step` and ready to be resumed.

    Args:
        step: The number of steps taken.
        cause: What happened to the run, such as `"interrupted"`.
    """

    def __init__(self, step: int, cause: str = "preempted") -> None:
        super().__init__(f"{cause}: saved after step {step}; rerun the same command to resume")
        self.step = step


class PreemptionWatcher:
    """Watcher for `SIGTERM`, `SIGINT` and `SIGHUP`, as a context manager in which they do not kill the process.

    A `SIGINT` raises `KeyboardInterrupt` if no step was taken yet, so that there is nothing to save, or if it is the
    second one. `SIGINT` and `SIGHUP` remain ignored if they are ignored, as in the background or with `nohup`.

    With several processes, JAX's distributed runtime watches for `SIGTERM` on each of them and reports it to all of
    them at the same sync point, so that all processes save the same step. Other signals are passed on as `SIGTERM`.
    """

    def __init__(self) -> None:
        self._is_preempted, self._sync_points, self._signal = False, 0, None
        self._is_distributed = jax.distributed.is_initialized()
        self._previous_handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._terminals: list[int] = []
        self._redirections = ExitStack()

    def __enter__(self) -> PreemptionWatcher:
        announce_saving(self._is_distributed)
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        self._redirections.enter_context(redirect_stdout(_closable(sys.stdout)))
        self._redirections.enter_context(redirect_stderr(_closable(sys.stderr)))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            previous, is_sigterm = signal.getsignal(number), number == signal.SIGTERM
            if (is_sigterm and self._is_distributed) or (not is_sigterm and previous == signal.SIG_IGN):
                continue
            try:
                signal.signal(number, self._receive)
            except ValueError:
                # Only the main thread can install signal handlers.
                return self
            self._previous_handlers[number] = previous
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redirections.close()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if self._signal is None:
            announce_saving(False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal is not None:
            raise_interrupt(frame)
            return
        can_save = self._is_distributed or self._sync_points > 0
        if number == signal.SIGINT and not can_save:
            raise_interrupt(frame, "no step was taken, so there is nothing to save")
            return
        if number == signal.SIGHUP:
            self._replace_terminal()
        self._signal = self._signal or signal.Signals(number)
        if self._is_distributed:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._is_preempted = True

    def _replace_terminal(self) -> None:
        """Discard further output, because writing to a closed terminal fails."""
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(null, descriptor)
        os.close(null)

    def is_preempted(self) -> bool:
        """Return whether to stop here, after a step. All processes must call this the same number of times."""
        self._sync_points += 1
        if not self._is_distributed:
            announce_saving(True)
            return self._is_preempted
        # The runtime reports the notice once, so latch it.
        self._is_preempted = self._is_preempted or multihost_utils.reached_preemption_sync_point(self._sync_points)
        return self._is_preempted

    def preemption(self, step: int) -> Preempted:
        """Return the exception to raise after a checkpoint was saved.

        Args:
            step: The number of steps taken.
        """
        return Preempted(step, "interrupted" if self._signal == signal.SIGINT else "preempted")


class _Terminal(io.FileIO):
    """A terminal that discards what is written to it after it is closed."""

    def write(self, data: Any, /) -> int:
        """Write bytes and return their number."""
        try:
            return super().write(data)
        except OSError as error:
            # A write that waits for a full terminal fails before the signal arrives.
            if error.errno != errno.EIO:
                raise
            return len(data)


def _closable(stream: TextIO) -> TextIO:
    """Return a stream to the same terminal whose writes do not fail after it is closed; other streams as they are."""
    if not stream.isatty():
        return stream
    stream.flush()
    file = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(file, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
