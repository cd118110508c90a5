"""The training step compiled for a pod: its figures on eight CPU devices, and once with a TPU's compiler."""

import importlib.util
import json

import pytest

from tcvit_jax import assembly, config, models, sharding
from tcvit_jax.measure import tpu
from tcvit_jax.training import pod
from tests.training.settings import GTP, TINY

# What a step depends on, of a tiny run.
STEP = tuple(each for each in TINY if each.startswith(("--config.model.", "--config.schedule", "--config.batch_size")))
RECIPE = ("--config.mixing.mixup=0.8", "--config.mixing.cutmix=1.0", "--config.random_erasing=0.25")


def settings(*arguments):
    return config.load(GTP, [*TINY, *RECIPE, *arguments])


def test_a_step_is_that_of_the_configuration():
    mesh = sharding.data_mesh()
    plain = pod.compile_step(settings(), mesh)
    parameters = models.count_parameters(assembly.build_model(settings().model, settings().reduction))
    # Parameters, averages and two moments; the batch besides.
    assert plain.arguments_mib * 2**20 == pytest.approx(4 * 4 * parameters + 8 * (144 + 4), rel=0.02)
    assert set(plain.collectives) == {"all-reduce"}
    shared = pod.compile_step(
        settings("--config.mesh.model=4", "--config.weights=w.safetensors", "--config.distill.teacher=dense"),
        sharding.make_mesh(0, 4),
    )
    assert set(shared.collectives) == {"all-gather", "all-reduce", "reduce-scatter"}
    # A quarter of most of what is trained, and the whole of a teacher, whose pass is another third of the student's two.
    assert shared.arguments_mib < 0.8 * plain.arguments_mib
    assert 1.15 < shared.gflop / plain.gflop < 1.6
    lines = pod.describe(plain, mesh, settings())
    assert "64 images on 8 chips, mesh 8 x 1" in lines
    assert f"{plain.collectives['all-reduce']} all-reduce" in lines


def test_the_command_writes_its_figures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tpu, "pod", lambda topology, data, model: sharding.make_mesh(data, model))
    file = tmp_path / "pod.json"
    assert pod.main(["--config", GTP, *STEP, "--json", str(file)]) == 0
    assert "64 images on 8 chips" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert (found["config"]["batch_size"], found["topology"], found["name"]) == (64, "v5e:2x2", "step")
    assert found["collectives"]
    assert pod.main(["--config", GTP, *STEP, "--config.batch_size=12"]) == 2
    assert capsys.readouterr().err == "error: batch_size=12: must be a positive multiple of 8 (8 devices); use 16\n"
    assert pod.main(["--config", GTP, *STEP, "--config.epochs=3"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --config.epochs cannot be combined with tcvit_jax.training.pod: it uses model.*, "
    )


@pytest.mark.slow
def test_the_step_of_deit_b_for_a_pod(script):
    """Two of its twelve blocks: reductions of the gradient and nothing else, and memory for the rest of them."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu: pip install -e '.[tpu]'")
    arguments = ("--config", "configs/deit_b_gtp.py", "--config.model.depth=2", "--config.batch_size=64")
    done = script("tcvit_jax.training.pod", *arguments)
    assert done.returncode == 0, done.stderr
    figures = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("compiled"))
    assert figures["collectives"].split()[1:] in (["all-reduce"], ["all-reduces"])
    assert int(figures["memory"].split()[0].replace(",", "")) < 2 * 1024
