"""Handling of preemption: on `SIGTERM` the run saves a checkpoint and exits."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: a temporary failure; the same command may be run again.
EXIT_STATUS = 75


class Preempted(Exception):
    """A preempted run, saved after `step` and ready to be resumed."""

    def __init__(self, step: int) -> None:
        super().__init__(f"preempted: saved after step {step}; rerun the same command to resume")
        self.step = step


class PreemptionWatcher:
    """Watcher for `SIGTERM`, as a context manager in which the signal does not kill the process.

    With several processes, JAX's distributed runtime watches for the signal on each of them and reports it to all of
    them at the same sync point, so that all processes save the same step.
    """

    def __init__(self) -> None:
        self._is_preempted, self._sync_points, self._previous_handler = False, 0, None
        self._is_distributed = jax.distributed.is_initialized()

    def __enter__(self) -> PreemptionWatcher:
        if not self._is_distributed:
            try:
                self._previous_handler = signal.signal(signal.SIGTERM, self._receive)
            except ValueError:
                # Only the main thread can install signal handlers.
                self._previous_handler = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def _receive(self, number: int, frame: FrameType | None) -> Any:
        self._is_preempted = True

    def is_preempted(self) -> bool:
        """Return whether to stop here. All processes must make this call the same number of times."""
        if not self._is_distributed:
            return self._is_preempted
        self._sync_points += 1
        # The runtime reports the notice once, so latch it.
        self._is_preempted = self._is_preempted or multihost_utils.reached_preemption_sync_point(self._sync_points)
        return self._is_preempted
