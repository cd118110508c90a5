"""What all command lines share."""

import pytest

import tcvit_jax as tc
from tcvit_jax.command import Command


def add_arguments(parser):
    parser.add_argument("--count", type=int, default=1)


def command(run, **options):
    return Command("Do a thing.\n\nexample line", add_arguments, run, prog="thing", **options)


def test_the_status_is_what_the_work_returns():
    assert command(lambda flags: None)([]) == 0
    assert command(lambda flags: flags.count)(["--count", "75"]) == 75


def test_a_mistake_is_one_line_and_status_2(capsys):
    def run(flags):
        raise tc.InputError("count=1\n: must be > 1")

    assert command(run)([]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "error: count=1\\n: must be > 1\n")


def test_what_is_not_a_mistake_is_raised():
    def run(flags):
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault of the program"):
        command(run)([])


def test_overrides_are_kept_as_they_were_typed(capsys):
    found = []
    arguments = ["--config.seed=3", "--count", "2", "--config.data.dir=a=b"]
    assert command(lambda flags: found.extend(flags.overrides), has_overrides=True)(arguments) == 0
    assert found == ["--config.seed=3", "--config.data.dir=a=b"]
    with pytest.raises(SystemExit):
        command(lambda flags: None)(arguments)
    assert "unrecognized arguments: --config.seed=3" in capsys.readouterr().err


def test_help_keeps_its_lines(capsys):
    with pytest.raises(SystemExit):
        command(lambda flags: None)(["--help"])
    assert "usage: thing" in (shown := capsys.readouterr().out) and "\n\nexample line\n" in shown
