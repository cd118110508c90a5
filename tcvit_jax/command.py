"""Base of all command lines: argument parsing, errors on one line and exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tcvit_jax.errors import InputError

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
    """

    description: str | None
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    prog: str | None = None
    has_overrides: bool = False

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command; an `InputError` is printed as one line to standard error.

        Args:
            arguments: The command-line arguments; None for those of the process.

        Returns:
            The exit status, which is 2 after an `InputError`.
        """
        parser = argparse.ArgumentParser(
            prog=self.prog, description=self.description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.add_arguments(parser)
        if self.has_overrides:
            flags, flags.overrides = parser.parse_known_args(arguments)
        else:
            flags = parser.parse_args(arguments)
        try:
            return self.run(flags) or 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return USAGE_ERROR
