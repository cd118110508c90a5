"""Progress on the terminal: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Seconds until a slow piece of work is announced, and between two reports of a pass over images: of a live bar, and of
# lines where there is no terminal.
SLOW = 10.0
BAR_INTERVAL, LINE_INTERVAL = 1.0, 30.0

P = ParamSpec("P")
R = TypeVar("R")
PrintLine = Callable[[str], object]


def print_error(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr, flush=True)


class SlowSteps:
    """Announcer of the current step of a command, if the step takes long. Quick steps print nothing.

    As a context manager, it announces nothing after its end.

    Args:
        print_line: A function that prints a line.
        after: Seconds until a step is announced; None for `SLOW`.
    """

    def __init__(self, print_line: PrintLine = print_error, after: float | None = None) -> None:
        self._print_line, self._after = print_line, SLOW if after is None else after
        self._timer: threading.Timer | None = None

    def __call__(self, text: str) -> None:
        """Start a step, which ends the one before.

        Args:
            text: What happens, such as `"compiling the training step"`.
        """
        self._cancel()
        self._timer = threading.Timer(self._after, self._print_line, [f"{text} ..."])
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> SlowSteps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def announce_slow(text: str, print_line: PrintLine = print_error, after: float | None = None) -> Generator[None]:
    """Announce the block if it takes long.

    Args:
        text: What happens in the block, such as `"compiling the training step"`.
        print_line: A function that prints a line.
        after: Seconds until the block is announced; None for `SLOW`.

    Yields:
        None.
    """
    with SlowSteps(print_line, after) as steps:
        steps(text)
        yield


def announce_first_call(
    function: Callable[P, R], text: str, print_line: PrintLine = print_error, after: float | None = None
) -> Callable[P, R]:
    """Return a function whose first call, which compiles, is announced if it takes long.

    Args:
        function: A function from `jax.jit`.
        text: What the first call does, such as `"compiling the training step"`.
        print_line: A function that prints a line.
        after: Seconds until the call is announced; None for `SLOW`.
    """
    is_compiled = False

    def announced(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal is_compiled
        if is_compiled:
            return function(*args, **kwargs)
        with announce_slow(text, print_line, after):
            result = function(*args, **kwargs)
        is_compiled = True
        return result

    return announced


class ImageProgress:
    """Progress of a pass over images, as a context manager. A quick pass shows nothing.

    Args:
        name: What happens to the images, such as `"evaluation"`.
        images: The number of images.
        show: A function that shows a text; None for a live bar on standard error if it is a terminal, or lines.
        interval: Seconds between two updates; None for `BAR_INTERVAL` on a terminal and `LINE_INTERVAL` elsewhere.
    """

    def __init__(self, name: str, images: int, show: PrintLine | None = None, interval: float | None = None) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._name, self._images, self._show = name, images, show or print_error
        self._bar = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
            disable=show is not None or not console.is_terminal,
        )  # fmt: skip
        self._task, self._is_shown = self._bar.add_task(name, total=images, status=""), False
        self._interval = interval or (LINE_INTERVAL if self._bar.disable else BAR_INTERVAL)
        self._last_update, self._start, self._first_images = time.monotonic(), 0.0, 0

    def __enter__(self) -> ImageProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # rich prints an empty line for a bar that was never shown.
        if self._is_shown:
            self._bar.stop()

    def update(self, images: int) -> None:
        """Set the number of images that are done.

        Args:
            images: The number, which may include padding.
        """
        now = time.monotonic()
        if not self._start:
            # The first batch compiles, so it does not count for the rate.
            self._start, self._first_images = now, images
        elif now - self._last_update >= self._interval:
            images = min(images, self._images)
            rate = (images - self._first_images) / (now - self._start)
            status = f"{images:,}/{self._images:,} images, {rate:,.0f} images/s"
            if self._bar.disable:
                self._show(f"{self._name}: {status}")
            else:
                self._is_shown = True
                self._bar.start()
                self._bar.update(self._task, completed=images, status=status)
            self._last_update = now


class Reporter:
    """Progress bar and messages of a training run, as a context manager.

    Args:
        total_steps: The steps of the run.
        start_step: The steps that are already done.
        is_enabled: Whether to print anything; False on all processes but the first.
    """

    def __init__(self, total_steps: int, start_step: int = 0, is_enabled: bool = True) -> None:
        # highlight=False: rich would color digits inside file names and messages.
        self._console = Console(highlight=False, quiet=not is_enabled, soft_wrap=True)
        self._bar = Progress(
            TextColumn("[bold]train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=self._console,
            disable=not (is_enabled and self._console.is_terminal),
        )  # fmt: skip
        self._task = self._bar.add_task("train", total=total_steps, completed=start_step, status="")
        self._total_steps, self._step = total_steps, start_step

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def print_line(self, text: str) -> None:
        """Print a permanent line; brackets in it are not interpreted as markup."""
        self._console.print(text, markup=False)

    def image_progress(self, name: str, images: int) -> ImageProgress:
        """Return the progress of a pass over images, shown next to the bar, or as lines where there is no terminal."""
        if self._console.is_terminal:
            return ImageProgress(name, images, self.show_status, BAR_INTERVAL)
        return ImageProgress(name, images, self.print_line, LINE_INTERVAL)

    def set_step(self, step: int) -> None:
        """Set the number of completed steps."""
        self._step = step
        self._bar.update(self._task, completed=step)

    def show_status(self, text: str) -> None:
        """Show the current metrics: next to the bar, or as a line where there is no terminal."""
        if self._console.is_terminal:
            self._bar.update(self._task, status=text)
        else:
            self.print_line(f"step {self._step}/{self._total_steps}  {text}")
