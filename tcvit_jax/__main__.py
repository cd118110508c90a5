"""Token reduction for Vision Transformers. Run a command, or print its flags.

python -m tcvit_jax COMMAND [FLAGS]
python -m tcvit_jax COMMAND --help
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace

from tcvit_jax import __version__
from tcvit_jax.command import USAGE_ERROR, Command
from tcvit_jax.errors import unknown

# The module of each command, and what it does.
COMMANDS = {
    "train": ("tcvit_jax.train", "train a model, or resume a run"),
    "eval": ("tcvit_jax.eval", "evaluate a checkpoint or published weights"),
    "convert": ("tcvit_jax.convert.__main__", "convert published weights to a checkpoint, or export a checkpoint"),
    "benchmark": ("tcvit_jax.benchmark.__main__", "compare reducers with the same weights, code and hardware"),
    "search": ("tcvit_jax.search.__main__", "search for the reduction that agrees best with the dense model"),
    "tpu": ("tcvit_jax.measure.tpu", "cost of models on TPU chips, by ahead-of-time compilation"),
    "pod": ("tcvit_jax.training.pod", "cost of a training step on a TPU pod, by ahead-of-time compilation"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, or print the list of commands.

    Args:
        arguments: The name and the arguments of a command; None for the arguments of the process.

    Returns:
        The exit status.
    """
    # Only a command that has the arguments of the process may exit the process.
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if name in COMMANDS:
        command: Command = importlib.import_module(COMMANDS[name][0]).main
        command = replace(command, prog=f"python -m tcvit_jax {name}")
        if arguments is not None:
            return command(rest[:-1])
        del sys.argv[1]
        return command()
    if name == "--version":
        print(f"tcvit_jax {__version__}")
    elif name in ("", "-h", "--help"):
        print(f"{__doc__}\ncommands:")
        for each, (_, text) in COMMANDS.items():
            print(f"  {each:10} {text}")
    else:
        kind = "flag" if name.startswith("-") else "command"
        options = ("--help", "--version") if kind == "flag" else COMMANDS
        print(f"error: {unknown(kind, name, options)}", file=sys.stderr)
        return USAGE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
