"""Step timer that excludes compilation, evaluation and checkpointing."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import contextmanager


class StepTimer:
    """Wall-clock time of the training steps.

    Pauses and steps that compile, such as the first one, are excluded.

    Attributes:
        seconds: The total time of the timed steps, in seconds.
        steps: The number of timed steps.
    """

    def __init__(self) -> None:
        self.seconds, self.steps = 0.0, 0
        self._last_tick: float | None = None

    def tick(self, is_timed: bool = True) -> None:
        """Record the end of a step.

        Args:
            is_timed: Whether the step counts. The first step never does.
        """
        now = time.perf_counter()
        if is_timed and self._last_tick is not None:
            self.seconds += now - self._last_tick
            self.steps += 1
        self._last_tick = now

    @contextmanager
    def pause(self) -> Generator[None]:
        """Exclude the time of the block."""
        start = time.perf_counter()
        yield
        if self._last_tick is not None:
            self._last_tick += time.perf_counter() - start

    def images_per_second(self, batch_size: int) -> float:
        """Return the mean throughput of the timed steps, or NaN if there is none.

        Args:
            batch_size: The number of images per step.
        """
        return self.steps * batch_size / self.seconds if self.seconds else math.nan
