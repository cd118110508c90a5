"""Progress on the terminal: a live bar where there is one, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """Tells how training goes. A context manager; `show=False`, for all processes but the first, tells nothing."""

    def __init__(self, total_steps: int, start_step: int = 0, show: bool = True) -> None:
        """A run of `total_steps`, of which `start_step` are done."""
        # highlight=False: rich would color digits inside file names and messages.
        self._console = Console(highlight=False, quiet=not show, soft_wrap=True)
        self._bar = Progress(
            TextColumn("[bold]train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=self._console,
            disable=not (show and self._console.is_terminal),
        )  # fmt: skip
        self._task = self._bar.add_task("train", total=total_steps, completed=start_step, note="")
        self._total, self._done = total_steps, start_step

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        """A line that stays, as it is: brackets are no markup."""
        self._console.print(text, markup=False)

    def step(self, step: int) -> None:
        """`step` steps are done."""
        self._done = step
        self._bar.update(self._task, completed=step)

    def note(self, text: str) -> None:
        """How it goes: beside the bar, or as a line."""
        if self._console.is_terminal:
            self._bar.update(self._task, note=text)
        else:
            self.line(f"step {self._done}/{self._total}  {text}")
