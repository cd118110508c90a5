"""A whole benchmark: complete, resumable, and equal to itself."""

import json
import signal
import subprocess
import sys
import time

import pytest

import tcvit_jax as tc
from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.benchmark.__main__ import main
from tcvit_jax.benchmark.comparison import build
from tcvit_jax.benchmark.run import Benchmark
from tcvit_jax.benchmark.store import Store
from tcvit_jax.benchmark.table import CELLS

# What is counted, and not timed.
EXACT = [
    cell for cell in CELLS if not cell.startswith(("images_per", "seconds_", "latency", "speed", "over", "compile"))
]


def comparison(checkpoints):
    return build(
        [from_checkpoint(directory) for directory in checkpoints],
        [tc.GTP(), tc.EViT()],
        shares=(0.85,),
        batch=4,
        rounds=3,
    )


@pytest.fixture(scope="module")
def finished(checkpoints, tmp_path_factory):
    """A benchmark that nothing interrupted, and its directory."""
    found, path = comparison(checkpoints), tmp_path_factory.mktemp("benchmark") / "out"
    return Benchmark(found, Store(path, found.settings), log=lambda line: None).run(), path


def test_rows_are_complete_and_files_hold_them(finished):
    rows, path = finished
    assert [row["reducer"] for row in rows] == ["dense", "GTP()", "EViT()"]
    assert all(set(row) == set(CELLS) for row in rows)
    assert json.loads((path / "results.json").read_text()) == rows
    assert (path / "results.csv").read_text().count("\n") == 4
    assert "| GTP() |" in (path / "results.md").read_text()
    for picture in ("accuracy_macs.png", "accuracy_speed.png"):
        assert (path / picture).read_bytes().startswith(b"\x89PNG")


def test_cells_are_what_they_are_called(finished, checkpoints):
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
    """In place of a kill, at a known moment."""


def test_an_interrupted_benchmark_continues_with_the_same_numbers(finished, checkpoints, tmp_path):
    rows, _ = finished
    found, said = comparison(checkpoints), []

    def stop(line):
        said.append(line)
        if len(said) > 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        Benchmark(found, Store(tmp_path, found.settings), log=stop).run()
    kept = (tmp_path / "metrics.jsonl").read_text()
    assert kept.count("\n") == 5
    again = Benchmark(found, Store(tmp_path, found.settings), log=lambda line: None).run()
    # What had been measured is what is reported, times too, and the rest was counted alike.
    assert (tmp_path / "metrics.jsonl").read_text().startswith(kept)
    for row, before in zip(again, rows, strict=True):
        assert {cell: row[cell] for cell in EXACT} == {cell: before[cell] for cell in EXACT}


def test_a_finished_benchmark_measures_nothing_again(finished, checkpoints):
    rows, path = finished
    found = comparison(checkpoints)
    before = (path / "metrics.jsonl").read_bytes()
    assert Benchmark(found, Store(path, found.settings), log=lambda line: None).run() == rows
    assert (path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_killed_process_continues_and_calibrated_parameters_are_in_the_row(checkpoints, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "--checkpoint", checkpoints[0], "--reducers", "topk,evit(fuse=false)", "--share", "0.85", "--batch", "2", "--rounds",
        "2", "--calibrate", "40", "--out", str(out),
    ]  # fmt: skip
    log = out / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tcvit_jax.benchmark", *arguments],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (log.is_file() and log.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert main(arguments) == 0
    assert log.read_text().startswith("".join(kept))
    rows = json.loads((out / "results.json").read_text())
    assert [row["reducer"] for row in rows] == ["dense", "TopK()", "EViT(fuse=False)"]
    assert rows[1]["recipe"] == "off the shelf, calibrate on 40 training images"
    # Two names of one method: the same tokens, and so the same answers.
    assert rows[1]["tokens"] == rows[2]["tokens"] and rows[1]["top1"] == rows[2]["top1"]
    assert "saved in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "error: nowhere: checkpoint not found"),
        (["--checkpoint", "{0}", "--reducers", "gpt"], "error: unknown reducer 'gpt': did you mean 'gtp'?"),
        (["--checkpoint", "{0}", "--share", "half"], "error: --share 'half' should be numbers with commas, such as 0.75,0.5"),
        (["--checkpoint", "{0}", "--share", ","], "error: no budget to compare at: use --share 0.75,0.5 or --gmacs 3.4"),
        (["--checkpoint", "{0}", "--config.gmacs=3.4"], "error: --config.gmacs cannot be combined with tcvit_jax.benchmark, which has --reducers and --gmacs: it uses data.name, "),
        (["--checkpoint", "{0}", "--reducers", "gtp,none"], "error: reducers 'gtp,none' hold 'none', which reduces nothing"),
        (["--checkpoint", "{0}", "--config.data.nam=x"], "error: unknown config key 'data.nam'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(checkpoints, capsys, tmp_path, arguments, message):
    code = main([*(argument.format(*checkpoints) for argument in arguments), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr()
    assert code == 2
    assert shown.err.startswith(message) and shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
