"""Leaving in good order: a machine that is about to go says so first, and the run saves and ends."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL of sysexits.h: not done, and worth another try with the same command.
EXIT_STATUS = 75


class Preempted(Exception):
    """The run was asked to end, and can be continued after `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted, and saved after step {step}: the same command continues")
        self.step = step


class PreemptionWatcher:
    """Whether somebody asked this run to end by `SIGTERM`; a context manager, inside of which that does not kill it.

    Where several processes train together, the distributed runtime watches for the signal on each of them, and they all
    learn of it at the same point, so that they save the same step.
    """

    def __init__(self) -> None:
        self._received, self._points, self._before = False, 0, None
        self._together = jax.distributed.is_initialized()

    def __enter__(self) -> PreemptionWatcher:
        if not self._together:
            try:
                self._before = signal.signal(signal.SIGTERM, self._receive)
            except ValueError:
                # Signals belong to the main thread; in another one there is nothing to listen to.
                self._before = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _receive(self, number: int, frame: FrameType | None) -> Any:
        self._received = True

    def reached(self) -> bool:
        """Whether to end here. All processes ask equally often, at the same points of their work."""
        if not self._together:
            return self._received
        self._points += 1
        # True at one point alone, and the work between them may be long: it is kept.
        self._received = self._received or multihost_utils.reached_preemption_sync_point(self._points)
        return self._received
