"""Progress on the terminal: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
