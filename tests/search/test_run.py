"""Tests of complete and resumed searches."""

import json
import shutil

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tcvit_jax.benchmark.store import Store
from tcvit_jax.search import table
from tcvit_jax.search.__main__ import main
from tcvit_jax.search.run import Search
from tcvit_jax.tasks.base import Subject
from tests.processes import run_until_logged
from tests.search.conftest import build_settings, small_space

FLAGS = [
    "--macs-fraction", "0.7", "--images", "24", "--min-images", "8", "--eta", "2", "--scores", "cls", "--matches",
    "cosine", "--fusions", "hard,drop", "--families", "constant", "--methods", "uniform,tome",
]  # fmt: skip
CANDIDATES = ["Uniform()", "ToMe()", "Cross(score='cls', match='cosine')", "Cross(score='cls', fuse='drop')"]


def search(settings, path, log=lambda line: None):
    return Search(settings, Store(path, settings.to_config(), table.FILES), log)


@pytest.fixture(scope="module")
def finished(pretrained, tmp_path_factory):
    """Return the rows of an uninterrupted search, its directory and its lines of progress."""
    path, log = tmp_path_factory.mktemp("search") / "out", []
    return search(build_settings(pretrained), path, log.append).run(), path, log


def test_rows_are_complete_and_written_to_files(finished):
    rows, path, log = finished
    assert sorted(row["reducer"] for row in rows) == sorted(CANDIDATES)
    assert [row["rung"] for row in rows] == [2, 2, 1, 1] and [row["images"] for row in rows] == [24, 24, 8, 8]
    assert all(tuple(row) == table.columns("cosine") for row in rows)
    assert rows[0]["cosine"] >= rows[1]["cosine"] and rows[2]["cosine"] >= rows[3]["cosine"]
    assert json.loads((path / "results.json").read_text()) == rows
    assert (path / "results.csv").read_text().count("\n") == 5
    text = (path / "results.md").read_text()
    assert "4 candidates, rungs of 8, 24 images. Differences to ToMe(), constant" in text
    assert "| reducer | schedule | rung | images | cosine (95 % CI) | difference (95 % CI) | GMACs |" in text
    assert log[:2] == [
        "rung 1 of 2, 8 images: candidate 1 of 4: Uniform(), constant",
        "rung 1 of 2, 8 images: candidate 2 of 4: ToMe(), constant",
    ]


def test_values_are_those_of_the_models(finished, pretrained):
    """The mean cosine, its interval and the paired difference, computed from the features of both models."""
    rows, _, _ = finished
    settings = build_settings(pretrained)
    data = settings.calibration.rung(24)
    images = np.concatenate([batch["image"][batch["mask"] > 0] for batch in data.batches()])
    assert len(images) == 24
    mean, std = (np.asarray(getattr(pretrained.preprocessing, name)) for name in ("mean", "std"))
    x = ((images / 255 - mean) / std).astype(np.float32)

    def features(model):
        outputs = models.condense(model, model.reducer, model.removed).clone(num_classes=0)
        params = {name: value for name, value in pretrained.variables["params"].items() if name != "head"}
        values = np.asarray(jax.jit(outputs.apply)({"params": params}, x), np.float64)
        return values / np.linalg.norm(values, axis=-1, keepdims=True)

    dense = features(settings.model)
    cosines = {each.name: (features(each.model) * dense).sum(-1) for each in settings.candidates}
    reference = cosines["ToMe(), constant"]
    for row in rows[:2]:
        values = cosines[f"{row['reducer']}, constant"]
        margin = 1.959964 * values.std(ddof=1) / np.sqrt(24)
        assert row["cosine"] == pytest.approx(values.mean(), abs=1e-6)
        assert row["cosine_high"] - row["cosine"] == pytest.approx(margin, rel=1e-3, abs=1e-6)
        assert row["difference"] == pytest.approx((values - reference).mean(), abs=1e-6)
    # The first rung is a subset: every third image.
    small = settings.calibration.rung(8)
    subject = Subject(
        settings.model, [pretrained.variables], pretrained.preprocessing, small, None, settings.model.grid
    )
    outputs = settings.objective.task.outputs(subject, sharding.data_mesh())
    np.testing.assert_allclose(outputs.images.values[0], dense[::3], atol=1e-5)


def test_preset_is_the_best_candidate(finished, pretrained):
    rows, path, _ = finished
    preset = tc.Preset(str(path / "preset.json"))
    assert repr(preset.reducer) == rows[0]["reducer"] and preset.schedule_family == "constant"
    source = preset.source
    assert (source["task"], source["objective"], source["images"]) == ("classify", "cosine", 24)
    assert (source["data"], source["split"], source["candidates"]) == ("digits", "train", 4)
    assert source["macs_fraction"] == 0.7 and source["cosine"] == rows[0]["cosine"]
    model = tc.condense(pretrained.model, preset.reducer, preset.schedule(source["gmacs"]))
    assert models.condense(model).cost().total * 0.7 >= model.cost().total


class StoppedError(Exception):
    """Interrupts a search at a defined point."""


def test_search_that_is_interrupted_at_every_measurement_has_the_same_results(finished, pretrained, tmp_path):
    rows, path, log = finished
    settings, attempts, lines = build_settings(pretrained), 0, 0
    while True:

        def stop(line, done=lines):
            if (tmp_path / "metrics.jsonl").is_file():
                count = (tmp_path / "metrics.jsonl").read_text().count("\n")
                if count > done:
                    raise StoppedError

        attempts += 1
        try:
            resumed = search(settings, tmp_path, stop).run()
            break
        except StoppedError:
            lines = (tmp_path / "metrics.jsonl").read_text().count("\n")
    assert attempts == len(log) and resumed == rows
    for name in ("metrics.jsonl", *table.FILES):
        assert (tmp_path / name).read_bytes() == (path / name).read_bytes(), name


def test_finished_search_makes_no_measurements(finished, pretrained, monkeypatch):
    rows, path, _ = finished
    monkeypatch.setattr("tcvit_jax.search.run._Rung._measure", lambda *_: pytest.fail("measured again"))
    assert search(build_settings(pretrained), path).run() == rows


def test_another_search_needs_another_directory(finished, pretrained):
    settings = build_settings(pretrained, eta=3)
    with pytest.raises(tc.InputError, match="holds a run with eta=2, not 3; set --out=PATH to another directory"):
        search(settings, finished[1])


def test_damaged_measurement_is_an_error(finished, pretrained, tmp_path):
    path = shutil.copytree(finished[1], tmp_path / "out")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines[1]["values"]["examples"] = 9
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(tc.InputError, match="metrics.jsonl line 2: expected cosine of 1 weights on 8 examples"):
        search(build_settings(pretrained), path).run()


def test_reference_has_a_row_and_is_measured_on_every_rung(pretrained, tmp_path):
    """Where ToMe is no candidate, with the first of the families; and with accuracy as the objective."""
    space = small_space(methods="uniform", scores="", families="keep_rate")
    log = []
    settings = build_settings(pretrained, space, metric="top1", min_images=8, images=16)
    rows = search(settings, tmp_path, log.append).run()
    assert [(row["reducer"], row["rung"], row["images"]) for row in rows] == [("Uniform()", 2, 16), ("ToMe()", 2, 16)]
    assert [line for line in log if "reference" in line] == [
        f"rung {rung} of 2, {images} images: reference ToMe(), keep_rate" for rung, images in ((1, 8), (2, 16))
    ]
    assert rows[1]["difference"] == 0 and 16 * rows[0]["top1"] == round(16 * rows[0]["top1"])
    assert tc.Preset(str(tmp_path / "preset.json")).reducer == tc.Uniform()


@pytest.mark.slow
def test_killed_process_resumes_with_the_same_results(finished, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, *FLAGS, "--out", str(out)]
    log = out / "metrics.jsonl"
    complete_lines = run_until_logged("tcvit_jax.search", arguments, log, 2)
    assert main(arguments) == 0
    assert log.read_text().startswith("".join(complete_lines))
    assert json.loads((out / "results.json").read_text()) == finished[0]
    text = capsys.readouterr().out
    assert "taken over from process" in text and f"use the best candidate as preset:{out}/preset.json" in text
    assert not (out / "compiled").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: a search requires weights: pass --checkpoint DIR or --config FILE"),
        (["--checkpoint", "nowhere"], "error: nowhere: checkpoint not found"),
        (["--checkpoint", "{0}", "--config", "x"], "error: --checkpoint cannot be combined with --config or --weights: a checkpoint holds both"),
        (["--checkpoint", "{0}", "--methods", "gpt"], "error: unknown reducer 'gpt': did you mean 'gtp'?"),
        (["--checkpoint", "{0}", "--macs-fraction", "1.5"], "error: --macs-fraction=1.5: must be in (0, 1); 0.5 is half"),
        (["--checkpoint", "{0}", "--gmacs", "7"], "error: --gmacs=7.0: must be > 0 and < "),
        (["--checkpoint", "{0}", "--eta", "1"], "error: --eta=1: must be >= 2; 3 passes on a third of the candidates"),
        (["--checkpoint", "{0}", "--images", "8"], "error: --min-images=16: must be in [2, 8], up to --images"),
        (["--checkpoint", "{0}", "--images", "5000"], "error: --images=5000: must be between 1 and 1438; split 'train' has"),
        (["--checkpoint", "{0}", "--objective", "top7"], "error: unknown objective 'top7': did you mean "),
        (["--checkpoint", "{0}", "--config.data.train_split=val"], "error: data.train_split='val': must be different from"),
        (["--checkpoint", "{0}", "--macs-fraction", "0.3"], "error: reference ToMe(), constant: budget gmacs="),
        (["--checkpoint", "{0}", "--config.schedule=3"], "error: --config.schedule cannot be combined with tcvit_jax.search"),
    ],
)  # fmt: skip
def test_invalid_arguments_print_one_line(checkpoint, capsys, tmp_path, arguments, message):
    status = main([*(argument.format(checkpoint) for argument in arguments), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith(message) and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
