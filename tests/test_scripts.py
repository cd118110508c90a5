"""The two scripts as a user runs them."""

import re

import numpy as np
import pytest

from tcvit_jax import convert
from tests.conftest import ROOT
from tests.training.settings import GTP, TINY


@pytest.mark.slow
def test_train_then_eval_prints_the_same_line(script, tmp_path):
    run = tmp_path / "run"
    trained = script("train.py", "--config", GTP, *TINY, f"--config.workdir={run}", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    # What took long to compile is there for the next start.
    assert any(path.name.startswith("jit_train_step") for path in (run / ".jax_cache").iterdir())
    banner = trained.stdout.splitlines()[:6]
    assert banner[0].startswith("model   deit_tiny_patch16_224, reducer gtp,")
    assert banner[1] == "tokens  36 -> 28 -> 20"
    assert re.fullmatch(r"GMACs   0\.0\d+, dense 0\.0\d+ \(\d\d\.\d% saved\)", banner[2])
    assert banner[4] == "devices 1 x cpu, batch size 64"
    found = next(line for line in reversed(trained.stdout.splitlines()) if line.startswith("top1"))
    evaluated = script("eval.py", "--checkpoint", str(run), cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert found in evaluated.stdout.splitlines()


DIGITS = {
    "img_size": 12,
    "patch_size": 2,
    "in_chans": 1,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 10,
}
DIGITS_DATA = (
    "--config.data.name=digits",
    "--config.eval_batch_size=64",
    "--config.data.mean=(0.5,)",
    "--config.data.std=(0.5,)",
    "--config.data.crop_pct=1.0",
    "--config.data.interpolation=bicubic",
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file in timm's names, and the checkpoint that it is converted to."""
    import jax
    from safetensors.numpy import save_file

    from tcvit_jax import create_model, models

    folder = tmp_path_factory.mktemp("published")
    model = create_model("deit_tiny_patch16_224", **DIGITS)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), models.variable_shapes(model))
    save_file(convert.to_torch(variables, model), folder / "w.safetensors")
    convert.to_checkpoint(
        str(folder / "w.safetensors"), folder / "ckpt", model.variant, overrides=DIGITS, compare=False
    )
    return folder


def counted(done):
    assert done.returncode == 0, done.stderr
    return re.search(r"^top1 0\.\d{6} \(\d+/359\)", done.stdout, re.MULTILINE)[0]


@pytest.mark.slow
def test_eval_of_published_weights_and_of_the_checkpoint_they_were_converted_to(script, published):
    overrides = [f"--config.model.{key}={value}" for key, value in DIGITS.items()]
    config = ("--config", "configs/digits_dense.py", "--config.schedule=4", "--config.reducer.name=gtp", *overrides)
    weights = script("eval.py", "--weights", str(published / "w.safetensors"), *config, *DIGITS_DATA)
    reduction = ("--config.reducer.name=gtp", "--config.schedule=4")
    checkpoint = script("eval.py", "--checkpoint", str(published / "ckpt"), *reduction, *DIGITS_DATA)
    assert counted(weights) == counted(checkpoint)
    assert "tokens  36 -> 32 -> 28" in checkpoint.stdout
    alone = script("eval.py", "--checkpoint", str(published / "ckpt"), "--config.schedule=4", *DIGITS_DATA)
    assert alone.returncode == 2
    assert alone.stderr == "error: schedule=4 has no effect: it requires reducer.name\n"
    other = script("eval.py", "--checkpoint", str(published / "ckpt"), "--config.model.depth=3")
    assert other.returncode == 2
    assert other.stderr.startswith(
        "error: cannot use --config.model.depth with a checkpoint, which brings its model: it"
    )
    dense = script("eval.py", "--checkpoint", str(published / "ckpt"), *DIGITS_DATA)
    assert counted(dense)
    assert "tokens  36 -> 36 -> 36" in dense.stdout


def test_what_a_checkpoint_says_of_its_images_is_used(published, tmp_path):
    """Not what its name says: another mean in its meta is another accuracy."""
    import json
    import shutil

    from tcvit_jax import assembly
    from tcvit_jax.assembly.evaluate import evaluate

    data = {"data.name": "digits", "eval_batch_size": 64}
    found = []
    for mean in (0.1, 0.9):
        folder = tmp_path / str(mean)
        shutil.copytree(published / "ckpt", folder)
        file = next(
            path for path in (folder / "meta").rglob("*") if path.is_file() and b"preprocessing" in path.read_bytes()
        )
        meta = json.loads(file.read_text())
        meta["preprocessing"].update(mean=[mean], std=[0.2])
        file.write_text(json.dumps(meta))
        weights = assembly.from_checkpoint(folder)
        found.append(evaluate(weights.updated(data)).loss)
        assert evaluate(weights.updated({**data, "data.mean": (mean,)})).loss == found[-1]
    assert found[0] != found[1]


def test_training_starts_from_a_converted_checkpoint(published):
    from tcvit_jax import config
    from tcvit_jax.training.job import build

    overrides = [f"--config.model.{key}={value}" for key, value in {**DIGITS, "img_size": 16}.items()]
    weights = f"--config.weights={published / 'ckpt'}"
    job = build(config.load(ROOT / "configs/digits_gtp.py", [*overrides, weights, "--config.schedule=4"]))
    given = convert.read_state_dict(published / "w.safetensors")
    np.testing.assert_array_equal(job.variables["params"]["head"]["kernel"], given["head.weight"].T)
    assert job.variables["params"]["pos_embed"].shape == (1, 65, 24)
    job = build(
        config.load(
            ROOT / "configs/digits_gtp.py", [*overrides, weights, "--config.schedule=4", "--config.new_head=True"]
        )
    )
    assert not job.variables["params"]["head"]["kernel"].any()


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
