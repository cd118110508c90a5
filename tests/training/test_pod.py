"""Ahead-of-time compilation of the training step: on eight CPU devices, and once with the TPU compiler."""

import importlib.util
import json

import pytest

from tcvit_jax import assembly, config, models, sharding
from tcvit_jax.measure import tpu
from tcvit_jax.training import pod
from tests.training.settings import GTP, TINY

# The overrides of a tiny run that affect the step.
STEP = tuple(each for each in TINY if each.startswith(("--config.model.", "--config.schedule", "--config.batch_size")))
RECIPE = ("--config.mixing.mixup=0.8", "--config.mixing.cutmix=1.0", "--config.random_erasing=0.25")


def settings(*arguments):
    return config.load(GTP, [*TINY, *RECIPE, *arguments])


@pytest.mark.slow
def test_compiled_step_matches_the_configuration():
    mesh = sharding.data_mesh()
    replicated = pod.compile_step(settings(), mesh)
    parameters = models.count_parameters(assembly.build_model(settings().model, settings().reduction))
    # The arguments are parameters, averages, two moments and the batch.
    assert replicated.arguments_mib * 2**20 == pytest.approx(4 * 4 * parameters + 8 * (144 + 4), rel=0.02)
    assert set(replicated.collectives) == {"all-reduce"}
    sharded = pod.compile_step(
        settings("--config.mesh.model=4", "--config.weights=w.safetensors", "--config.distill.teacher=dense"),
        sharding.make_mesh(0, 4),
    )
    assert set(sharded.collectives) == {"all-gather", "all-reduce", "reduce-scatter"}
    # A quarter of the large parameters and a full teacher, whose forward pass adds a third to the student's two passes.
    assert sharded.arguments_mib < 0.8 * replicated.arguments_mib
    assert 1.15 < sharded.gflop / replicated.gflop < 1.6
    lines = pod.describe(replicated, mesh, settings())
    assert "64 images on 8 chips, mesh 8 x 1" in lines
    assert f"{replicated.collectives['all-reduce']} all-reduce" in lines


def test_command_prints_and_writes_the_cost(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tpu, "pod", lambda topology, data, model: sharding.make_mesh(data, model))
    file = tmp_path / "pod.json"
    assert pod.main(["--config", GTP, *STEP, "--json", str(file)]) == 0
    assert "64 images on 8 chips" in capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert (figures["config"]["batch_size"], figures["topology"], figures["name"]) == (64, "v5e:2x2", "step")
    assert figures["collectives"]
    assert pod.main(["--config", GTP, *STEP, "--config.batch_size=12"]) == 2
    assert capsys.readouterr().err == "error: batch_size=12: must be a positive multiple of 8 (8 devices); use 16\n"
    assert pod.main(["--config", GTP, *STEP, "--config.epochs=3"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --config.epochs cannot be combined with tcvit_jax.training.pod: it uses model.*, "
    )


@pytest.mark.slow
def test_step_of_deit_b_compiles_for_a_tpu(script):
    """With two of its twelve blocks, all-reduces are the only collectives, and memory is left for the other blocks."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("requires libtpu: pip install -e '.[tpu]'")
    arguments = ("--config", "configs/deit_b_gtp.py", "--config.model.depth=2", "--config.batch_size=64")
    result = script("tcvit_jax.training.pod", *arguments)
    assert result.returncode == 0, result.stderr
    figures = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if not line.startswith("compiled"))
    assert figures["collectives"].split()[1:] in (["all-reduce"], ["all-reduces"])
    assert int(figures["memory"].split()[0].replace(",", "")) < 2 * 1024
