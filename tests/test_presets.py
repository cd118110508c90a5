"""Tests of presets: files, names in command lines, and the wheel."""

import json
import shutil
import subprocess
import sys

import pytest

import tcvit_jax as tc
from tcvit_jax import config, presets, reducers
from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.benchmark import comparison
from tcvit_jax.benchmark.__main__ import main as benchmark
from tests.benchmark.conftest import save as save_checkpoint
from tests.conftest import ROOT

SOURCE = {"model": "vit", "task": "knn", "images": 64, "gmacs": 1.5}
REDUCER = tc.Cross(score="gtp", match="cosine", fuse="hard")


@pytest.fixture
def preset(tmp_path):
    """Return the path of a preset."""
    path = tmp_path / "preset.json"
    presets.save(path, REDUCER, "keep_rate", SOURCE)
    return str(path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a directory in place of that of the package, with a preset named `small`."""
    directory = tmp_path / "presets"
    directory.mkdir()
    presets.save(directory / "small.json", tc.PiToMe(margin=0.5), "stages", SOURCE)
    monkeypatch.setattr(presets, "DIRECTORY", directory)
    return directory


@pytest.mark.parametrize("reducer", [REDUCER, tc.DiffRate(pruned=(1, 2)), tc.TCViT(order=3)], ids=repr)
def test_saved_preset_is_read_back(tmp_path, reducer):
    path = tmp_path / "own.json"
    presets.save(path, reducer, "stages", SOURCE)
    preset = tc.Preset(str(path))
    assert (preset.reducer, preset.schedule_family, preset.source) == (reducer, "stages", SOURCE)
    assert preset.schedule(2.5) == tc.schedule.budget(2.5, "stages")
    assert preset == tc.Preset(str(path))


def test_presets_of_the_package_have_names(package):
    assert presets.list_presets() == ["small"]
    assert tc.Preset("small").reducer == tc.PiToMe(margin=0.5)
    for name, hint in (("smal", "did you mean 'small'?"), ("x" * 9, "must be one of PATH.json, small")):
        with pytest.raises(tc.InputError) as error:
            tc.Preset(name)
        assert str(error.value) == f"unknown preset {name!r}: {hint}"


def test_presets_of_this_package_reduce_models():
    assert presets.list_presets() == ["dinov2_small"]
    for name in presets.list_presets():
        preset, dense = tc.Preset(name), tc.create_model("deit_small_patch16_224")
        model = tc.condense(dense, preset.reducer, preset.schedule(gmacs=2.8))
        assert 2.7 < tc.describe(model).gmacs <= 2.8
        assert {"model", "task", "objective", "split", "images", "gmacs"} <= set(preset.source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reducer": {"name": "gpt"}}, "unknown reducer 'gpt': did you mean 'gtp'?"),
        ({"reducer": {"name": "gtp", "alfa": 1}}, "unknown gtp field 'alfa': did you mean 'alpha'?"),
        ({"reducer": {"name": "none"}}, "expected a reducer, got 'none'"),
        ({"reducer": {}}, "expected a reducer, got 'none'"),
        ({"reducer": "gtp"}, "reducer: expected `object`, got `str`"),
        ({"schedule_family": "keep"}, "unknown schedule family 'keep': did you mean 'keep_rate'?"),
        ({"schedule_family": 3}, "schedule_family: expected `str`, got `int`"),
        ({"source": None}, "source: expected `object`, got `null`"),
    ],
)
def test_invalid_files_are_errors_of_one_line(preset, changes, message):
    with open(preset) as file:
        values = json.load(file)
    with open(preset, "w") as file:
        json.dump({**values, **changes}, file)
    with pytest.raises(tc.InputError) as error:
        tc.Preset(preset)
    assert str(error.value) == f"{preset}: {message}"


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(tc.InputError, match=r"none.json: .*not found"):
        tc.Preset(str(tmp_path / "none.json"))


def test_lists_of_reducers_may_have_presets(preset, package):
    assert presets.parse(f"tome, preset:{preset},preset:small(margin=0.9)") == (
        (tc.ToMe(), "method"), (REDUCER, "keep_rate"), (tc.PiToMe(margin=0.9), "stages"),
    )  # fmt: skip
    assert presets.parse("all") == tuple((reducer, "method") for reducer in reducers.parse("all"))
    for text, message in (
        ("preset:smal", "unknown preset 'smal': did you mean 'small'?"),
        ("preset:small(order=3)", "unknown pitome field 'order'"),
        ("preset:", "reducers='preset:': must be a comma-separated list"),
        ("tome,none", "reducers='tome,none': must not contain 'none'"),
    ):
        with pytest.raises(tc.InputError) as error:
            presets.parse(text)
        assert str(error.value).startswith(message)


def test_configurations_take_the_schedule_family_of_a_preset(preset):
    name = f"--config.reducer.name=preset:{preset}"
    values = config.load("configs/deit_s_gtp.py", [name, "--config.gmacs=3.0"])
    assert (values.reduction.reducer, values.reduction.schedule_family) == (REDUCER, "keep_rate")
    assert config.Config.from_mapping(values.to_mapping()) == values
    changed = config.load(
        "configs/deit_s_gtp.py",
        [name, "--config.reducer.fuse=soft", "--config.gmacs=3.0", "--config.schedule_family=stages"],
    )
    assert (changed.reduction.reducer.fuse, changed.reduction.schedule_family) == ("soft", "stages")
    with pytest.raises(tc.InputError, match="unknown preset 'x': must be one of"):
        config.load("configs/deit_s_gtp.py", ["--config.reducer.name=preset:x"])


def test_benchmark_uses_the_schedule_family_of_a_preset(preset, tmp_path):
    pretrained = [from_checkpoint(save_checkpoint(tmp_path / "dense", 0))]
    methods, families = zip(*presets.parse(f"tome,preset:{preset},cross(score=gtp,match=cosine)"), strict=True)
    built = comparison.build(pretrained, methods, families=families, macs_fractions=(0.8,))
    dense, *entries = built.entries(built.budgets[0])
    assert dense.family == "none" and [entry.family for entry in entries] == ["constant", "keep_rate", "constant"]
    names = ["ToMe()", f"{REDUCER!r}, keep_rate", repr(REDUCER)]
    assert [entry.name for entry in entries] == names and len({entry.label for entry in entries}) == 3
    budget = tc.schedule.budget(built.budgets[0], "keep_rate")
    assert entries[1].model == tc.condense(pretrained[0].model, REDUCER, budget)
    assert entries[1].model.removed != entries[2].model.removed
    # A family for all methods replaces that of the preset, so that the two reducers are one.
    with pytest.raises(tc.InputError, match="--reducers: Cross.* is listed twice"):
        comparison.build(pretrained, methods, families=families, schedule_family="stages")


@pytest.mark.slow
def test_benchmark_of_a_preset_has_a_row(preset, tmp_path):
    checkpoint, out = save_checkpoint(tmp_path / "dense", 0), tmp_path / "out"
    flags = ["--macs-fraction", "0.8", "--batch", "2", "--rounds", "1", "--no-bounds", "--out", str(out)]
    assert benchmark(["--checkpoint", checkpoint, "--reducers", f"tome,preset:{preset}", *flags]) == 0
    rows = json.loads((out / "results.json").read_text())
    assert [row["schedule_family"] for row in rows] == ["none", "constant", "keep_rate"]


@pytest.mark.slow
def test_wheel_has_the_presets(tmp_path):
    """The content of a wheel of a copy of the package with one more preset."""
    copy, content = tmp_path / "copy", tmp_path / "content"
    shutil.copytree(ROOT / "tcvit_jax", copy / "tcvit_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("MANIFEST.in", "README.md"):
        shutil.copy(ROOT / name, copy)
    # An earlier setuptools, as in a new environment, does not know the form of the license.
    lines = (ROOT / "pyproject.toml").read_text().splitlines(keepends=True)
    (copy / "pyproject.toml").write_text("".join(line for line in lines if not line.startswith("license")))
    presets.save(copy / "tcvit_jax" / "presets" / "small.json", REDUCER, "keep_rate", SOURCE)
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "build_py", "--build-lib", str(content)]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = "import tcvit_jax as tc; print(tc.__file__, tc.Preset('small').reducer)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={"PYTHONPATH": str(content), "PATH": "", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == [f"{content}/tcvit_jax/__init__.py", f"{REDUCER!r}\n"]
