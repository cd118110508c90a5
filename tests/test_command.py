"""The base of all command lines."""

import pytest

import tcvit_jax as tc
from tcvit_jax.command import Command


def add_arguments(parser):
    parser.add_argument("--count", type=int, default=1)


def command(run, **options):
    return Command("Run the example.\n\nexample line", add_arguments, run, prog="example", **options)


def test_command_returns_the_exit_status_of_run():
    assert command(lambda flags: None)([]) == 0
    assert command(lambda flags: flags.count)(["--count", "75"]) == 75


def test_input_error_is_one_line_and_status_2(capsys):
    def run(flags):
        raise tc.InputError("count=1\n: must be > 1")

    assert command(run)([]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: count=1\\n: must be > 1\n")


def test_other_exceptions_are_raised():
    def run(flags):
        raise RuntimeError("internal error")

    with pytest.raises(RuntimeError, match="internal error"):
        command(run)([])


def test_overrides_are_passed_unchanged(capsys):
    overrides = []
    arguments = ["--config.seed=3", "--count", "2", "--config.data.dir=a=b"]
    assert command(lambda flags: overrides.extend(flags.overrides), has_overrides=True)(arguments) == 0
    assert overrides == ["--config.seed=3", "--config.data.dir=a=b"]
    with pytest.raises(SystemExit):
        command(lambda flags: None)(arguments)
    assert "unrecognized arguments: --config.seed=3" in capsys.readouterr().err


def test_help_keeps_line_breaks(capsys):
    with pytest.raises(SystemExit):
        command(lambda flags: None)(["--help"])
    help_text = capsys.readouterr().out
    assert "usage: example" in help_text and "\n\nexample line\n" in help_text
