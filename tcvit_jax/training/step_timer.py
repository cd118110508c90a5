"""Training time, without what is not training."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import contextmanager


class StepTimer:
    """Seconds spent on training steps: pauses and steps that compile, such as the first, are left out."""

    def __init__(self) -> None:
        self.seconds, self.steps = 0.0, 0
        self._since: float | None = None

    def tick(self, counts: bool = True) -> None:
        """A step has ended; the first never counts."""
        now = time.perf_counter()
        if counts and self._since is not None:
            self.seconds += now - self._since
            self.steps += 1
        self._since = now

    @contextmanager
    def pause(self) -> Generator[None]:
        """What happens inside is not training."""
        start = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - start

    def rate(self, batch_size: int) -> float:
        """Images per second so far, `nan` before the second step."""
        return self.steps * batch_size / self.seconds if self.seconds else math.nan
