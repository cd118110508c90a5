"""Tests of complete and resumed benchmarks."""

import json
import shutil

import pytest

import tcvit_jax as tc
from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.benchmark.__main__ import main
from tcvit_jax.benchmark.comparison import build
from tcvit_jax.benchmark.run import Benchmark
from tcvit_jax.benchmark.store import Store
from tcvit_jax.benchmark.table import columns
from tests.processes import run_until_logged

TIME_COLUMNS = ("images_per", "seconds_", "latency", "speed", "over", "compile")
COLUMNS = columns(("top1", "top5"))
EXACT_COLUMNS = [column for column in COLUMNS if not column.startswith(TIME_COLUMNS)]


def build_comparison(checkpoints):
    return build(
        [from_checkpoint(directory) for directory in checkpoints],
        [tc.GTP(), tc.EViT()],
        macs_fractions=(0.85,),
        batch=4,
        rounds=3,
        has_bounds=False,
    )


@pytest.fixture(scope="module")
def finished(checkpoints, tmp_path_factory):
    """Return the rows of an uninterrupted benchmark and its directory."""
    comparison, path = build_comparison(checkpoints), tmp_path_factory.mktemp("benchmark") / "out"
    return Benchmark(comparison, Store(path, comparison.settings), log=lambda line: None).run(), path


def test_rows_are_complete_and_written_to_files(finished):
    rows, path = finished
    assert [row["reducer"] for row in rows] == ["dense", "GTP()", "EViT()"]
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert json.loads((path / "results.json").read_text()) == rows
    assert (path / "results.csv").read_text().count("\n") == 4
    assert "| GTP() |" in (path / "results.md").read_text()
    for plot in ("accuracy_macs.png", "accuracy_speed.png"):
        assert (path / plot).read_bytes().startswith(b"\x89PNG")


def test_columns_are_consistent(finished, checkpoints):
    rows, _ = finished
    dense, gtp, evit = rows
    assert dense["speedup"] == 1 and dense["overhead"] == 0 and dense["seconds_plan"] == 0
    assert gtp["difference"] == gtp["difference_low"] == gtp["difference_high"] == 0
    assert dense["difference"] == pytest.approx(dense["top1"] - gtp["top1"])
    assert gtp["seconds_plan"] > 0 and evit["seconds_apply"] > 0
    for row in rows:
        assert row["top1_low"] <= row["top1"] <= row["top1_high"] <= row["top5"]
        assert row["images_per_second_p10"] <= row["images_per_second"] <= row["images_per_second_p90"]
        assert row["latency_p10"] <= row["latency"] <= row["latency_p90"]
        assert row["images"] == 359 and row["seeds"] == [0, 1] and row["batch"] == 4
    model = tc.load(checkpoints[0])[0]
    assert dense["gmacs"] == tc.measure.ledger(model).total / 1e9
    assert gtp["gmacs"] <= gtp["budget"] < dense["gmacs"]
    assert gtp["gmacs_computed"] < gtp["gmacs"]


class StoppedError(Exception):
    """Interrupts a benchmark at a defined point."""


def test_interrupted_benchmark_resumes_with_the_same_results(finished, checkpoints, tmp_path):
    rows, _ = finished
    comparison, log = build_comparison(checkpoints), []

    def stop(line):
        log.append(line)
        if len(log) > 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        Benchmark(comparison, Store(tmp_path, comparison.settings), log=stop).run()
    measurements = (tmp_path / "metrics.jsonl").read_text()
    assert measurements.count("\n") == 5
    resumed = Benchmark(comparison, Store(tmp_path, comparison.settings), log=lambda line: None).run()
    # Stored measurements are reused, and all others agree except for times.
    assert (tmp_path / "metrics.jsonl").read_text().startswith(measurements)
    for actual, expected in zip(resumed, rows, strict=True):
        assert {name: actual[name] for name in EXACT_COLUMNS} == {name: expected[name] for name in EXACT_COLUMNS}


def test_finished_benchmark_makes_no_measurements(finished, checkpoints):
    rows, path = finished
    comparison = build_comparison(checkpoints)
    before = (path / "metrics.jsonl").read_bytes()
    assert Benchmark(comparison, Store(path, comparison.settings), log=lambda line: None).run() == rows
    assert (path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_killed_process_resumes_and_rows_have_calibrated_parameters(checkpoints, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "--checkpoint", checkpoints[0], "--reducers", "topk,evit(fuse=false)", "--macs-fraction", "0.85", "--batch", "2",
        "--rounds", "2", "--calibrate", "40", "--out", str(out), "--no-bounds",
    ]  # fmt: skip
    log = out / "metrics.jsonl"
    complete_lines = run_until_logged("tcvit_jax.benchmark", arguments, log, 2)
    assert main(arguments) == 0
    assert log.read_text().startswith("".join(complete_lines))
    rows = json.loads((out / "results.json").read_text())
    assert [row["reducer"] for row in rows] == ["dense", "TopK()", "EViT(fuse=False)"]
    assert rows[1]["recipe"] == "off the shelf, calibrated on 40 training images"
    # Both are the same method, so their tokens and hits are equal.
    assert rows[1]["tokens"] == rows[2]["tokens"] and rows[1]["top1"] == rows[2]["top1"]
    assert "saved to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "error: nowhere: checkpoint not found"),
        (["--checkpoint", "{0}", "--reducers", "gpt"], "error: unknown reducer 'gpt': did you mean 'gtp'?"),
        (["--checkpoint", "{0}", "--macs-fraction", "half"], "error: --macs-fraction='half': must be comma-separated numbers such as 0.75,0.5"),
        (["--checkpoint", "{0}", "--macs-fraction", ","], "error: a benchmark requires budgets: set --macs-fraction 0.75,0.5 or --gmacs 3.4"),
        (["--checkpoint", "{0}", "--config.gmacs=3.4"], "error: --config.gmacs cannot be combined with tcvit_jax.benchmark, which has --reducers and --gmacs: it uses data.name, "),
        (["--checkpoint", "{0}", "--reducers", "gtp,none"], "error: reducers='gtp,none': must not contain 'none'"),
        (["--checkpoint", "{0}", "--config.data.nam=x"], "error: unknown config key 'data.nam'"),
    ],
)  # fmt: skip
def test_invalid_arguments_print_one_line(checkpoints, capsys, tmp_path, arguments, message):
    status = main([*(argument.format(*checkpoints) for argument in arguments), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith(message) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("unit", "changes", "problem"),
    [
        ("accuracy of dense", {"examples": 10**9}, "expected top1, top5 of 2 weights on 359 examples"),
        (
            "accuracy of dense",
            {"metrics": {"top1": {"dtype": "bool", "rows": ["ff"]}}},
            "expected top1, top5 of 2 weights",
        ),
        (
            "accuracy of dense",
            {"metrics": {"top5": {"dtype": "bool", "rows": ["no"]}}},
            r"values: metrics.* expected `str` matching",
        ),
        ("accuracy of dense", {"examples": "359"}, "values: examples: expected `int`, got `str`"),
        ("times at", {"names": ["dense"]}, "expected the times of dense, GTP"),
        (
            "times at",
            {"one": {"seconds": [[1.0]], "compile_seconds": [1.0], "memory": [1]}},
            "expected the times of 5 models in",
        ),
        ("times at", {"batch": {"seconds": [[-1.0]], "compile_seconds": [], "memory": []}}, "values: batch.seconds"),
        ("stages of dense", {"plan": "fast"}, "values: "),
    ],
)
def test_damaged_measurements_are_errors(finished, checkpoints, tmp_path, unit, changes, problem):
    path = shutil.copytree(finished[1], tmp_path / "out")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    next(line for line in lines if line["unit"].startswith(unit))["values"].update(changes)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = build_comparison(checkpoints)
    with pytest.raises(tc.InputError, match=f"metrics.jsonl line [0-9]+: {problem}"):
        Benchmark(comparison, Store(path, comparison.settings), log=lambda line: None).run()
