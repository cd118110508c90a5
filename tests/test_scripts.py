"""The two scripts as a user runs them."""

import re

import pytest

from tests.conftest import ROOT
from tests.training.test_loop import GTP, TINY


def test_train_then_eval_prints_the_same_line(script, tmp_path):
    run = tmp_path / "run"
    trained = script("train.py", "--config", GTP, *TINY, f"--config.workdir={run}", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    banner = trained.stdout.splitlines()[:6]
    assert banner[0].startswith("model   deit_tiny_patch16_224, reducer gtp,")
    assert banner[1] == "tokens  36 -> 28 -> 20"
    assert re.fullmatch(r"GMACs   0\.0\d+, dense 0\.0\d+ \(\d\d\.\d% saved\)", banner[2])
    assert banner[4] == "devices 1 x cpu, 64 images a step"
    found = next(line for line in reversed(trained.stdout.splitlines()) if line.startswith("top1"))
    evaluated = script("eval.py", "--checkpoint", str(run), cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert found in evaluated.stdout.splitlines()


def test_eval_of_published_weights_in_timm_s_names(script, tmp_path):
    import numpy as np
    from flax import traverse_util
    from safetensors.numpy import save_file

    from tcvit_jax import config, models
    from tcvit_jax.convert.timm import timm_name
    from tcvit_jax.training.experiment import build_model

    shapes = traverse_util.flatten_dict(models.parameter_shapes(build_model(config.load(GTP, TINY))))
    rng = np.random.default_rng(0)
    weights = {}
    for path, leaf in shapes.items():
        shape = leaf.shape if path[-1] != "kernel" else (leaf.shape[::-1] if len(leaf.shape) == 2 else (16, 1, 2, 2))
        weights[timm_name(path)] = rng.standard_normal(shape).astype(np.float32)
    save_file(weights, tmp_path / "w.safetensors")
    done = script("eval.py", "--config", GTP, "--weights", str(tmp_path / "w.safetensors"), *TINY)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^top1 0\.\d{6} \(\d+/359\)", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train.py", "--config", "configs/deit_s_gtp.py"), r"dataset 'imagenet2012' .*tfds build imagenet2012.*--config\.data\.name=folder"),
        (("train.py", "--config", "configs/digits_gpt.py"), r"unknown config file 'configs/digits_gpt.py': did you mean 'configs/digits_gtp.py'\?"),
        (("train.py", "--config", "configs/digits_gtp.py", "--config.sede=1"), r"unknown config key 'sede': did you mean 'seed'\?"),
        (("train.py", "--config", "configs/digits_gtp.py", "--config.data.name=fashon_mnist"), r"unknown dataset 'fashon_mnist': did you mean 'fashion_mnist'\?"),
        (("eval.py", "--checkpoint", "configs"), r"no checkpoint in 'configs'.*"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_a_status(script, arguments, message, tmp_path):
    name, *rest = arguments
    done = script(name, *rest, *([f"--config.workdir={tmp_path / 'run'}"] if name == "train.py" else []))
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(f"error: .*{message}.*\n", done.stderr), done.stderr
    assert not (tmp_path / "run").exists()


def test_eval_needs_a_checkpoint_or_weights(script):
    done = script("eval.py", "--config", "configs/digits_gtp.py")
    assert done.returncode == 2
    assert "give --checkpoint DIR, or --config FILE and --weights FILE" in done.stderr


def test_scripts_stay_short():
    for name in ("train.py", "eval.py"):
        assert len((ROOT / name).read_text().splitlines()) < 60
