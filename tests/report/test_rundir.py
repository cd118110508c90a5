"""The files of a run directory, which belongs to one configuration."""

import json
import math
import re

import pytest

import tcvit_jax as tc
from tcvit_jax.report.rundir import RunDirectory
from tests.damage import DAMAGES

CONFIG = {"seed": 0, "optimizer": {"lr": 0.1}, "workdir": "here"}


def opened(path, config=CONFIG):
    """A run directory whose start was accepted."""
    run = RunDirectory(path, config)
    run.write_config()
    return run


def test_run_directory_rejects_another_configuration(tmp_path):
    opened(tmp_path, CONFIG).log(1, {"loss": 2.0})
    before = (tmp_path / "config.json").read_text()
    RunDirectory(tmp_path, {**CONFIG, "workdir": "elsewhere"})
    # A start that is refused later has changed nothing.
    assert (tmp_path / "config.json").read_text() == before
    with pytest.raises(tc.InputError) as error:
        RunDirectory(tmp_path, {**CONFIG, "optimizer": {"lr": 0.2}})
    assert str(error.value) == (
        f"{tmp_path}: holds a run with optimizer.lr=0.1, not 0.2; "
        "set --config.workdir=PATH to another directory, or remove this one"
    )


def test_run_directory_without_logs_accepts_another_configuration(tmp_path):
    opened(tmp_path)
    opened(tmp_path, {**CONFIG, "seed": 1})
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_truncate_after_removes_later_log_lines(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    for step in (5, 10, 15):
        run.log(step, {"loss": 1 / step})
    with run.metrics.open("a") as file:
        file.write('{"step": 20, "lo')
    run.truncate_after(10)
    assert [line["step"] for line in run.history()] == [5, 10]


def test_history_rejects_a_damaged_line_before_the_last(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    run.metrics.write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
    with pytest.raises(
        tc.InputError,
        match="metrics.jsonl line 2: expected a JSON object with a step, got '{\"loss\": 2}': object missing required field `step`$",
    ):
        run.history()


def test_summary_stores_nan_as_null(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    run.write_summary({"top1": 0.5, "speed": math.nan})
    assert run.summary() == {"top1": 0.5, "speed": None}


def test_run_directory_of_a_non_writer_writes_no_file(tmp_path):
    run = RunDirectory(tmp_path, CONFIG, is_writer=False)
    run.log(1, {"loss": 1.0})
    run.write_summary({"top1": 1.0})
    run.truncate_after(0)
    assert list(tmp_path.iterdir()) == []


def test_run_directory_rejects_files_and_damaged_configurations(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        tc.InputError,
        match=r"file: cannot create the directory \(File exists\); set --config.workdir=PATH to another directory",
    ):
        RunDirectory(tmp_path / "file", CONFIG)
    opened(tmp_path / "run", CONFIG).log(1, {"loss": 1.0})
    (tmp_path / "run" / "config.json").write_text('{"seed"')
    with pytest.raises(tc.InputError, match="config.json: invalid JSON"):
        RunDirectory(tmp_path / "run", CONFIG)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"step": "five"}', "expected `float | null`, got `str`"),
        ('{"step": null}', "step: expected `int`, got `null`"),
        ('{"step": -1}', "step: expected `int` >= 0"),
        ('{"step": 2147483648}', "step: expected `int` <= 2147483647"),
        ('{"step": true}', "expected `float | null`, got `bool`"),
        ('{"step": 1.5}', "step: expected `int`, got `float`"),
        ('{"step": 1, "loss": "low"}', "expected `float | null`, got `str`"),
        ('{"step": 1, "loss": NaN}', "invalid JSON"),
        ('{"step": 1, "loss": 1e999}', "expected `float` <="),
        ('{"step": 1, "loss": [1]}', "expected `float | null`, got `array`"),
        ('{"step": 1}{"step": 2}', "invalid JSON"),
        ("[]", "expected `object`, got `array`"),
        ("", "invalid JSON"),
    ],
)
def test_history_checks_every_complete_line(tmp_path, line, problem):
    run = RunDirectory(tmp_path, CONFIG)
    for text in (f'{{"step": 1}}\n{line}\n{{"step": 3}}\n', f'{{"step": 1}}\n{line}\n'):
        run.metrics.write_text(text)
        with pytest.raises(tc.InputError, match=re.escape(problem)) as error:
            run.history()
        assert str(error.value).startswith(f"{run.metrics} line 2: expected a JSON object with a step")


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGES if name not in ("deleted", "cut by a byte", "dangling link")]
)
def test_damaged_summary_is_an_error(tmp_path, damage):
    run = RunDirectory(tmp_path, CONFIG)
    run.write_summary({"train_images_per_second": 1.0})
    DAMAGES[damage](tmp_path / "summary.json")
    with pytest.raises(tc.InputError, match="^.*/summary.json: ") as error:
        run.summary()
    assert len(str(error.value)) < 300


def test_throughput_in_the_summary_must_be_a_number(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    for value, problem in (("fast", "got `str`"), (True, "got `bool`"), (-1, ">= 0")):
        (tmp_path / "summary.json").write_text(json.dumps({"train_images_per_second": value}))
        with pytest.raises(tc.InputError, match=f"summary.json: train_images_per_second: expected .*{problem}"):
            run.summary()


def test_configuration_is_read_with_the_endings_and_the_mark_of_an_editor(tmp_path):
    opened(tmp_path, CONFIG).log(1, {"loss": 1.0})
    file = tmp_path / "config.json"
    file.write_text("\ufeff" + file.read_text().replace("\n", "\r\n"))
    RunDirectory(tmp_path, CONFIG)


def test_lost_configuration_of_a_run_is_an_error(tmp_path):
    """Another configuration would pass for that of the run."""
    opened(tmp_path, CONFIG).log(1, {"loss": 1.0})
    (tmp_path / "config.json").unlink()
    with pytest.raises(tc.InputError, match="config.json: not found, so the configuration of the run is not known"):
        RunDirectory(tmp_path, CONFIG)
