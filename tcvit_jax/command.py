"""What all command lines share: arguments, a user's mistake as one line, and the exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tcvit_jax.errors import InputError

USAGE_ERROR = 2


@dataclass(frozen=True)
class Command:
    """A command line. Making one imports nothing heavy, so that `--help` answers at once.

    Attributes:
        description: what `--help` says, as it is: the docstring of the command's module.
        add_arguments: adds its arguments to a parser.
        run: does the work, given the arguments; returns the exit status, or None for 0. With `has_overrides` the
            attribute `overrides` holds the `--config.KEY=VALUE` strings.
        prog: how it is typed; None for the script's name.
        has_overrides: whether it takes `--config.KEY=VALUE`.
    """

    description: str | None
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    prog: str | None = None
    has_overrides: bool = False

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run the command and return its exit status; an `InputError` is one line on standard error and status 2.

        Args:
            arguments: None for those of the process.
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
