"""End-to-end tests of `train.py` and `eval.py`."""

import re

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import convert
from tests.conftest import ROOT
from tests.convert import cases
from tests.training.settings import GTP, TINY


@pytest.mark.slow
def test_train_then_eval_prints_the_same_line(script, tmp_path):
    run = tmp_path / "run"
    # Compilation with the flags of the tests takes less than the second from which JAX caches a program.
    cached = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    train_process = script("train.py", "--config", GTP, *TINY, f"--config.workdir={run}", cwd=tmp_path, **cached)
    assert train_process.returncode == 0, train_process.stderr
    assert train_process.stderr == ""
    # Programs that are slow to compile are cached for the next run.
    assert any(path.name.startswith("jit_train_step") for path in (run / ".jax_cache").iterdir())
    banner = train_process.stdout.splitlines()[:6]
    assert banner[0].startswith("model   deit_tiny_patch16_224, reducer gtp,")
    assert banner[1] == "tokens  36 -> 28 -> 20"
    assert re.fullmatch(r"GMACs   0\.0\d+, dense 0\.0\d+ \(\d\d\.\d% saved\)", banner[2])
    assert banner[4] == "devices 1 x cpu, batch size 64"
    result = next(line for line in reversed(train_process.stdout.splitlines()) if line.startswith("top1"))
    eval_process = script("eval.py", "--checkpoint", str(run), cwd=tmp_path)
    assert eval_process.returncode == 0, eval_process.stderr
    assert result in eval_process.stdout.splitlines()


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
def published_weights(tmp_path_factory):
    """A weight file with timm's names, and the checkpoint converted from it."""
    from safetensors.numpy import save_file

    from tcvit_jax import create_model

    folder = tmp_path_factory.mktemp("published")
    model = create_model("deit_tiny_patch16_224", **DIGITS)
    save_file(convert.to_torch(cases.random_variables(model), model), folder / "w.safetensors")
    convert.to_checkpoint(
        str(folder / "w.safetensors"), folder / "ckpt", model.variant, overrides=DIGITS, compare=False
    )
    return folder


def top1_of(process):
    assert process.returncode == 0, process.stderr
    return re.search(r"^top1 0\.\d{6} \(\d+/359\)", process.stdout, re.MULTILINE)[0]


@pytest.mark.slow
def test_eval_of_weights_equals_eval_of_the_converted_checkpoint(script, published_weights):
    overrides = [f"--config.model.{key}={value}" for key, value in DIGITS.items()]
    config = ("--config", "configs/digits_dense.py", "--config.schedule=4", "--config.reducer.name=gtp", *overrides)
    weights = script("eval.py", "--weights", str(published_weights / "w.safetensors"), *config, *DIGITS_DATA)
    reduction = ("--config.reducer.name=gtp", "--config.schedule=4")
    checkpoint = script("eval.py", "--checkpoint", str(published_weights / "ckpt"), *reduction, *DIGITS_DATA)
    assert top1_of(weights) == top1_of(checkpoint)
    assert "tokens  36 -> 32 -> 28" in checkpoint.stdout
    schedule_only = script(
        "eval.py", "--checkpoint", str(published_weights / "ckpt"), "--config.schedule=4", *DIGITS_DATA
    )
    assert schedule_only.returncode == 2
    assert schedule_only.stderr == "error: schedule=4 requires a reducer: set --config.reducer.name=NAME, such as gtp\n"
    resized = script("eval.py", "--checkpoint", str(published_weights / "ckpt"), "--config.model.depth=3")
    assert resized.returncode == 2
    assert resized.stderr.startswith("error: --config.model.depth cannot be combined with eval.py: it uses")
    dense = script("eval.py", "--checkpoint", str(published_weights / "ckpt"), *DIGITS_DATA)
    assert top1_of(dense)
    assert "tokens  36 -> 36 -> 36" in dense.stdout


@pytest.mark.slow
def test_preprocessing_of_a_checkpoint_is_used(published_weights, tmp_path):
    """The metadata take precedence over the model's name: changing the mean changes the loss."""
    from tcvit_jax import assembly, checkpoint
    from tcvit_jax.assembly.evaluate import evaluate

    data = {"data.name": "digits", "eval_batch_size": 64}
    losses = []
    for mean in (0.1, 0.9):
        _, variables, meta = tc.load(published_weights / "ckpt")
        meta["preprocessing"].update(mean=[mean], std=[0.2])
        checkpoint.save(tmp_path / str(mean), variables, meta)
        weights = assembly.from_checkpoint(tmp_path / str(mean))
        losses.append(evaluate(weights.updated(data)).loss)
        assert evaluate(weights.updated({**data, "data.mean": (mean,)})).loss == losses[-1]
    assert losses[0] != losses[1]


def test_training_starts_from_a_converted_checkpoint(published_weights):
    from tcvit_jax import config
    from tcvit_jax.training.job import build

    overrides = [f"--config.model.{key}={value}" for key, value in {**DIGITS, "img_size": 16}.items()]
    weights = f"--config.weights={published_weights / 'ckpt'}"
    job = build(config.load(ROOT / "configs/digits_gtp.py", [*overrides, weights, "--config.schedule=4"]))
    state_dict = convert.read_state_dict(published_weights / "w.safetensors")
    np.testing.assert_array_equal(job.variables["params"]["head"]["kernel"], state_dict["head.weight"].T)
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
        (("train.py", "--config", "configs/deit_s_gtp.py"), r"dataset 'imagenet2012': .*tfds build imagenet2012.*--config\.data\.name=folder"),
        (("train.py", "--config", "configs/digits_gpt.py"), r"unknown config file 'configs/digits_gpt.py': did you mean 'configs/digits_gtp.py'\?"),
        (("train.py", "--config", "configs/digits_gtp.py", "--config.sede=1"), r"unknown config key 'sede': did you mean 'seed'\?"),
        (("train.py", "--config", "configs/digits_gtp.py", "--config.data.name=fashon_mnist"), r"unknown dataset 'fashon_mnist': did you mean 'fashion_mnist'\?"),
        (("eval.py", "--checkpoint", "configs"), r"configs: checkpoint not found"),
    ],
)  # fmt: skip
def test_input_errors_are_one_line_and_status_2(script, arguments, message, tmp_path):
    name, *rest = arguments
    process = script(name, *rest, *([f"--config.workdir={tmp_path / 'run'}"] if name == "train.py" else []))
    assert process.returncode == 2
    assert process.stdout == ""
    assert re.fullmatch(f"error: .*{message}.*\n", process.stderr), process.stderr
    assert not (tmp_path / "run").exists()


def test_eval_requires_a_checkpoint_or_weights(script):
    process = script("eval.py")
    assert process.returncode == 2
    assert "eval.py requires --checkpoint DIR, or --config FILE and --weights FILE" in process.stderr
    process = script("eval.py", "--config", "configs/digits_gtp.py")
    assert process.returncode == 2
    assert "requires weights: set --weights FILE or --config.weights=FILE" in process.stderr


def test_scripts_stay_short():
    for name in ("train.py", "eval.py"):
        assert len((ROOT / name).read_text().splitlines()) < 60
