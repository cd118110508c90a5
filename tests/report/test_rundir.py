"""The files of a run directory, which belongs to one configuration."""

import json
import math

import pytest

import tcvit_jax as tc
from tcvit_jax.report.rundir import RunDirectory

CONFIG = {"seed": 0, "optimizer": {"lr": 0.1}, "workdir": "here"}


def test_run_directory_rejects_another_configuration(tmp_path):
    RunDirectory(tmp_path, CONFIG).log(1, {"loss": 2.0})
    RunDirectory(tmp_path, {**CONFIG, "workdir": "elsewhere"})
    with pytest.raises(tc.InputError) as error:
        RunDirectory(tmp_path, {**CONFIG, "optimizer": {"lr": 0.2}})
    assert str(error.value) == (
        f"{tmp_path}: holds a run with optimizer.lr=0.1, not 0.2; "
        "set --config.workdir=PATH to another directory, or remove this one"
    )


def test_run_directory_without_logs_accepts_another_configuration(tmp_path):
    RunDirectory(tmp_path, CONFIG)
    RunDirectory(tmp_path, {**CONFIG, "seed": 1})
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
    with pytest.raises(tc.InputError, match="metrics.jsonl line 2: expected a JSON object with a step, got '{"):
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
    RunDirectory(tmp_path / "run", CONFIG).log(1, {"loss": 1.0})
    (tmp_path / "run" / "config.json").write_text('{"seed"')
    with pytest.raises(tc.InputError, match="config.json: invalid JSON"):
        RunDirectory(tmp_path / "run", CONFIG)
