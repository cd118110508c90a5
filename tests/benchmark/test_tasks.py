"""Benchmarks of features, with the rows that a method must exceed."""

import json

import pytest

from tcvit_jax.benchmark.__main__ import main
from tcvit_jax.benchmark.table import columns
from tcvit_jax.tasks.knn import Knn

FLAGS = ["--reducers", "gtp", "--macs-fraction", "0.7", "--batch", "2", "--rounds", "1"]


@pytest.fixture(scope="module")
def finished(checkpoints, tmp_path_factory):
    """Return the arguments of a benchmark of neighbors, and its directory."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    arguments = [
        "--checkpoint", *checkpoints, *FLAGS, "--task", "knn", "--k", "3", "--leave-one-out", "--out", str(out),
    ]  # fmt: skip
    assert main(arguments) == 0
    return arguments, out


def test_rows_have_the_metrics_of_the_task(finished):
    _, out = finished
    rows = json.loads((out / "results.json").read_text())
    assert [row["reducer"] for row in rows] == ["dense", "GTP()", "dense at 10x10 px", "Random()", "Uniform()"]
    assert all(set(row) == set(columns(Knn.METRICS)) for row in rows)
    dense, gtp, resized, *others = rows
    assert dense["cosine"] == pytest.approx(1, abs=1e-6) and dense["img_size"] == [12, 12]
    assert all(0.2 < row["cosine"] < 1 for row in (gtp, resized, *others))
    assert gtp["difference"] == 0 and resized["difference"] == pytest.approx(resized["top1"] - gtp["top1"])
    assert (resized["tokens"], resized["img_size"]) == ([25] * 3, [10, 10])
    assert all(row["gmacs"] <= row["budget"] and row["latency"] > 0 for row in (gtp, resized, *others))
    assert resized["overhead"] == 0 and resized["schedule_family"] == "none"
    table = (out / "results.md").read_text()
    assert "| top-1 % | range over seeds | difference to GTP() (95 % CI) | top-5 % | cosine |" in table
    assert (out / "accuracy_macs.png").is_file()


def test_finished_benchmark_makes_no_measurements(finished):
    arguments, out = finished
    before = (out / "metrics.jsonl").read_bytes()
    assert main(arguments) == 0
    assert (out / "metrics.jsonl").read_bytes() == before


def test_another_task_needs_another_directory(finished, capsys):
    arguments, _ = finished
    assert main([*arguments, "--k", "4"]) == 2
    assert "holds a run with task.k=3, not 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "knn", "--calibrate", "9"], "error: --calibrate cannot be combined with --task knn: calibration maximizes"),
        (["--task", "kn"], "error: unknown task 'kn': did you mean 'knn'?"),
        (["--img-size", "5"], "error: img_size=5: must be a positive multiple of patch_size=2"),
    ],
)  # fmt: skip
def test_invalid_arguments_print_one_line(checkpoints, capsys, tmp_path, arguments, message):
    assert main(["--checkpoint", checkpoints[0], *FLAGS, *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
