"""Base of all command lines: argument parsing, errors on one line and exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tcvit_jax.devices import FREE_MEMORY, device_error
from tcvit_jax.errors import InputError
from tcvit_jax.interrupts import EXIT_STATUS as INTERRUPTED
from tcvit_jax.interrupts import Interrupts, exit_now

USAGE_ERROR = 2


@dataclass(frozen=True)
class Command:
    """A command line.

    It imports only the standard library before `run` is called, so `--help` is fast.

    Attributes:
        description: The text of `--help`, printed verbatim: usually the docstring of the command's module.
        add_arguments: Adds the arguments of the command to a parser.
        run: Runs the command with the parsed arguments, and returns the exit status or None for 0. With
            `has_overrides`, the attribute `overrides` of its argument has the `--config.KEY=VALUE` strings.
        prog: The name of the command in `--help`; None for the name of the script.
        has_overrides: Whether the command accepts `--config.KEY=VALUE`.
        memory_hint: What to reduce if there is not enough memory.
    """

    description: str | None
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    prog: str | None = None
    has_overrides: bool = False
    memory_hint: str = FREE_MEMORY

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command; errors of users, devices and memory are printed as one line to standard error.

        Args:
            arguments: The command-line arguments; None for those of the process, which then exits here after Ctrl-C.

        Returns:
            The exit status, which is 2 after such an error and 130 after Ctrl-C.
        """
        parser = argparse.ArgumentParser(
            prog=self.prog, description=self.description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_arguments(parser)
        if self.has_overrides:
            flags, flags.overrides = parser.parse_known_args(arguments)
        else:
            flags = parser.parse_args(arguments)
        with Interrupts() as interrupts:
            try:
                return self.run(flags) or 0
            except KeyboardInterrupt as interrupt:
                interrupts.report(str(interrupt))
            except Exception as error:
                reported = error if isinstance(error, InputError) else device_error(error, self.memory_hint)
                if reported is None:
                    raise
                print(f"error: {reported}", file=sys.stderr)
                return USAGE_ERROR
        if arguments is None:
            exit_now(INTERRUPTED)
        return INTERRUPTED
