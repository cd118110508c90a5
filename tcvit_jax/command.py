"""Base of all command lines: argument parsing, errors on one line, Ctrl-C and exit statuses."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tcvit_jax.devices import FREE_MEMORY, device_error
from tcvit_jax.errors import InputError, invalid, out_of_range, requires, unknown
from tcvit_jax.files import expand
from tcvit_jax.interrupts import EXIT_STATUS as INTERRUPTED
from tcvit_jax.interrupts import Interrupts, exit_now

USAGE_ERROR = 2
# The start of an argument that changes a key of the configuration.
OVERRIDE = "--config."
_OVERRIDES_HELP = (
    "--config.KEY=VALUE changes a key of the configuration, such as --config.eval_batch_size=64.\n"
    "docs/train.md in the documentation lists all keys, with their defaults and units."
)


class PathArgument(argparse.Action):
    """Action that stores a path, or several, with `~` and environment variables expanded."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the value.

        Raises:
            InputError: An environment variable is not set, or a home directory is not known.
        """
        name = option_string or self.dest
        paths = [expand(path, name) for path in ([values] if isinstance(values, str) else values or [])]
        setattr(namespace, self.dest, paths[0] if isinstance(values, str) else paths)


def numbers(flag: str, text: str | None) -> tuple[float, ...]:
    """Return comma-separated numbers.

    Args:
        flag: The flag, for error messages.
        text: Its value, or None for no numbers.

    Raises:
        InputError: A part of the text is not a number.
    """
    try:
        return tuple(float(part) for part in (text or "").split(",") if part)
    except ValueError as error:
        raise out_of_range(flag, text, "comma-separated numbers such as 0.75,0.5") from error


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are an `InputError`, and whose help has all defaults.

    Flags cannot be abbreviated.

    Args:
        prog: The name of the command in `--help`; None for the name of the script.
        description: The text of `--help`, printed verbatim.
        has_overrides: Whether the command accepts `--config.KEY=VALUE`.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, has_overrides: bool = False) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=_HelpFormatter, allow_abbrev=False,
            epilog=_OVERRIDES_HELP if has_overrides else None,
        )  # fmt: skip
        self._has_overrides = has_overrides

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse arguments.

        Args:
            arguments: The arguments; None for those of the process.

        Returns:
            The values by name. With `has_overrides`, `overrides` has the `--config.KEY=VALUE` strings.

        Raises:
            InputError: A flag is unknown, or a value is missing or invalid.
        """
        arguments = sys.argv[1:] if arguments is None else arguments
        # Before parsing, which would name a required flag that is missing instead of the one with a typing error.
        for argument in arguments:
            if argument == "--":
                break
            flag = argument.partition("=")[0]
            is_override = self._has_overrides and flag.startswith(OVERRIDE)
            if flag.startswith("--") and flag not in self._option_string_actions and not is_override:
                raise unknown("flag", flag, [each for each in self._option_string_actions if each.startswith("--")])
        flags, rest = self.parse_known_args(arguments)
        overrides = [each for each in rest if self._has_overrides and each.startswith(OVERRIDE)]
        for override in overrides:
            if "=" not in override:
                raise invalid(override, f"expected an override of the form {OVERRIDE}KEY=VALUE")
        for argument in rest:
            if argument not in overrides:
                raise invalid(repr(argument), "unexpected argument", f"see {self.prog} --help")
        if self._has_overrides:
            flags.overrides = overrides
        return flags

    def error(self, message: str) -> NoReturn:
        """Raise an `InputError` for a message of `argparse`."""
        if match := re.fullmatch(r"argument (\S+): invalid (\w+) value: '(.*)'", message):
            raise out_of_range(match[1], match[3], {"int": "an integer", "float": "a number"}.get(match[2], match[2]))
        if match := re.fullmatch(r"the following arguments are required: (.*)", message):
            raise requires(self.prog, match[1], f"see {self.prog} --help")
        raise invalid(self.prog, message.removeprefix("argument "), f"see {self.prog} --help")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formatter that keeps the line breaks of the description, and appends the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        has_default = action.option_strings and action.default not in (None, False, "", argparse.SUPPRESS, [])
        if action.required and action.option_strings:
            return f"{text} (required)"
        return f"{text} (default: %(default)s)" if has_default else text


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
        parser = Parser(self.prog, self.description, self.has_overrides)
        self.add_arguments(parser)
        with Interrupts() as interrupts:
            try:
                return self.run(parser.parse(arguments)) or 0
            except KeyboardInterrupt as interrupt:
                interrupts.report(str(interrupt))
            except Exception as error:
                # Orbax raises an error of the file that it was reading in place of `KeyboardInterrupt`.
                if not interrupts.is_raised:
                    reported = error if isinstance(error, InputError) else device_error(error, self.memory_hint)
                    if reported is None:
                        raise
                    print(f"error: {reported}", file=sys.stderr)
                    return USAGE_ERROR
                interrupts.report()
        if arguments is None:
            exit_now(INTERRUPTED)
        return INTERRUPTED
