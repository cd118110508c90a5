"""The base of all command lines."""

import importlib
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import __main__ as modules
from tcvit_jax.__main__ import COMMANDS
from tcvit_jax.command import Command, Parser, PathArgument

# Flags without a default: each is required unless another one is passed.
OPTIONAL = {
    ("eval", "checkpoint"), ("eval", "config"), ("eval", "weights"), ("benchmark", "checkpoint"),
    ("benchmark", "config"), ("benchmark", "weights"), ("tpu", "json"), ("pod", "json"),
    ("search", "checkpoint"), ("search", "config"), ("search", "weights"),
    *((name, flag) for name in ("eval", "benchmark", "search") for flag in ("decoder", "decoder_weights")),
}  # fmt: skip


def add_arguments(parser):
    parser.add_argument("--count", type=int, default=1, help="number of examples")
    parser.add_argument("--data-dir", action=PathArgument, help="directory")


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
    assert command(lambda flags: None)(arguments) == 2
    assert "unknown flag '--config.seed'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cuont", "2"], "unknown flag '--cuont': did you mean '--count'?"),
        (["--cuont=2"], "unknown flag '--cuont': did you mean '--count'?"),
        # Flags cannot be abbreviated.
        (["--coun=2"], "unknown flag '--coun': did you mean '--count'?"),
        (["--data-dri", "x"], "unknown flag '--data-dri': did you mean '--data-dir'?"),
        (["--configs.seed=3"], "unknown flag '--configs.seed': must be one of --count, --data-dir, --help"),
        (["--count", "two"], "--count='two': must be an integer"),
        (["--count"], "example: --count: expected one argument; see example --help"),
        (["--count=2", "file"], "'file': unexpected argument; see example --help"),
        (["-c", "2"], "'-c': unexpected argument; see example --help"),
        (["--config.seed", "3"], "--config.seed: expected an override of the form --config.KEY=VALUE"),
        (["--config.seed=1", "3"], "'3': unexpected argument; see example --help"),
        (["--data-dir", "$NOT_SET/x"], "--data-dir='$NOT_SET/x': environment variable 'NOT_SET' is not set"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(capsys, arguments, message):
    assert command(lambda flags: None, has_overrides=True)(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_wrong_flag_is_named_before_a_required_one_that_is_missing(capsys):
    from tcvit_jax.train import main

    assert main(["--confg", "configs/digits_gtp.py"]) == 2
    assert capsys.readouterr().err == "error: unknown flag '--confg': did you mean '--config'?\n"
    assert main([]) == 2
    assert " requires --config: see " in capsys.readouterr().err


def test_paths_of_flags_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/runs")
    values = []
    run = command(lambda flags: values.append(flags.data_dir))
    for path in ("~/a", "$RUNS/${RUNS}", "a/~b", "hf-hub:timm/x"):
        assert run(["--data-dir", path]) == 0
        assert run([f"--data-dir={path}"]) == 0
    assert values[::2] == values[1::2] == ["/home/me/a", "/runs//runs", "a/~b", "hf-hub:timm/x"]


# Every argument that is a path, by command.
PATHS = {
    "train": {"--config"},
    "eval": {"--checkpoint", "--config", "--weights", "--decoder-weights", "--label-maps"},
    "convert": {"source", "--out", "--photo"},
    "benchmark": {"--checkpoint", "--config", "--weights", "--decoder-weights", "--label-maps", "--out"},
    "search": {"--checkpoint", "--config", "--weights", "--decoder-weights", "--label-maps", "--out"},
    "tpu": {"--json"},
    "pod": {"--config", "--json"},
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_of_every_command_are_expanded(name):
    parser = Parser()
    importlib.import_module(COMMANDS[name][0]).main.add_arguments(parser)
    actions = [action for action in parser._actions if isinstance(action, PathArgument)]
    assert {(action.option_strings or [action.dest])[0] for action in actions} == PATHS[name]


@pytest.mark.parametrize("name", PATHS)
def test_help_of_every_command_has_all_defaults(name, capsys):
    with pytest.raises(SystemExit):
        modules.main([name, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: python -m tcvit_jax {name} ")
    parser = Parser()
    importlib.import_module(COMMANDS[name][0]).main.add_arguments(parser)
    for action in parser._actions:
        if action.option_strings and action.nargs != 0:
            assert action.help, action
            has_default = action.required or action.default is not None or "by default" in action.help
            # Of two alternatives, each depends on the other.
            assert has_default or (name, action.dest) in OPTIONAL, action
            if action.default:
                assert f"(default: {action.default})" in text


def test_list_of_commands(capsys):
    assert modules.main([]) == 0
    text = capsys.readouterr().out
    assert modules.main(["--help"]) == 0
    assert capsys.readouterr().out == text
    lines = [line.split()[0] for line in text.partition("commands:\n")[2].splitlines()]
    assert lines == list(COMMANDS)
    assert modules.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tcvit_jax {tc.__version__}\n"
    assert modules.main(["trian"]) == 2
    assert modules.main(["--versoin"]) == 2
    assert modules.main(["train", "--confg", "x"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.rpartition("did you mean ")[2] for line in errors] == ["'train'?", "'--version'?", "'--config'?"]


def test_every_module_with_a_command_is_listed():
    package = Path(tc.__file__).parent
    files = [path for path in package.rglob("*.py") if "= Command(" in path.read_text()]
    modules_of_files = {".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files}
    assert {module for module, _ in COMMANDS.values()} == modules_of_files


def test_package_runs_a_command(script):
    process = script("tcvit_jax", "eval", "--checkpoint", "configs")
    assert (process.returncode, process.stderr) == (2, "error: configs: checkpoint not found\n")


def test_help_keeps_line_breaks(capsys):
    with pytest.raises(SystemExit):
        command(lambda flags: None)(["--help"])
    help_text = capsys.readouterr().out
    assert "usage: example" in help_text and "\n\nexample line\n" in help_text
