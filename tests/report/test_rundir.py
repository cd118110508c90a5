"""The files of a run: whole or absent, one run to a directory."""

import json
import math

import pytest

import tcvit_jax as tc
from tcvit_jax.report.rundir import RunDirectory

CONFIG = {"seed": 0, "optimizer": {"lr": 0.1}, "workdir": "here"}


def test_a_run_is_continued_by_the_same_configuration_alone(tmp_path):
    RunDirectory(tmp_path, CONFIG).log(1, {"loss": 2.0})
    RunDirectory(tmp_path, {**CONFIG, "workdir": "elsewhere"})
    with pytest.raises(tc.InputError) as caught:
        RunDirectory(tmp_path, {**CONFIG, "optimizer": {"lr": 0.2}})
    assert str(caught.value) == (
        f"'{tmp_path}' holds a run with optimizer.lr=0.1, not 0.2: "
        "choose another directory with --config.workdir=PATH, or remove it"
    )


def test_a_run_that_never_logged_may_be_started_anew(tmp_path):
    RunDirectory(tmp_path, CONFIG)
    RunDirectory(tmp_path, {**CONFIG, "seed": 1})
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_what_was_logged_beyond_the_checkpoint_is_forgotten(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    for step in (5, 10, 15):
        run.log(step, {"loss": 1 / step})
    with run.metrics.open("a") as file:
        file.write('{"step": 20, "lo')
    run.truncate_after(10)
    assert [line["step"] for line in run.history()] == [5, 10]


def test_a_damaged_line_before_the_last_is_an_error(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    run.metrics.write_text('{"step": 1}\n{"loss": 2}\n{"step": 3}\n')
    with pytest.raises(tc.InputError, match="line 2 of .*metrics.jsonl' is damaged"):
        run.history()


def test_nan_is_null_in_json(tmp_path):
    run = RunDirectory(tmp_path, CONFIG)
    run.write_summary({"top1": 0.5, "speed": math.nan})
    assert run.summary() == {"top1": 0.5, "speed": None}


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    run = RunDirectory(tmp_path, CONFIG, write=False)
    run.log(1, {"loss": 1.0})
    run.write_summary({"top1": 1.0})
    run.truncate_after(0)
    assert list(tmp_path.iterdir()) == []


def test_directories_that_cannot_hold_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tc.InputError, match="cannot keep a run in '.*file': File exists"):
        RunDirectory(tmp_path / "file", CONFIG)
    RunDirectory(tmp_path / "run", CONFIG).log(1, {"loss": 1.0})
    (tmp_path / "run" / "config.json").write_text('{"seed"')
    with pytest.raises(tc.InputError, match="config.json' is damaged"):
        RunDirectory(tmp_path / "run", CONFIG)
