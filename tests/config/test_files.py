"""Configuration files and overrides."""

import shutil
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import assembly, config
from tcvit_jax.assembly import build_preprocessing
from tcvit_jax.config import configuration, files

CONFIGS = Path(__file__).parent.parent.parent / "configs"
GTP = str(CONFIGS / "digits_gtp.py")


def build_model(run_config):
    return assembly.build_model(run_config.model, run_config.reduction)


def test_overrides_are_parsed_as_the_type_of_their_key():
    run_config = config.load(
        GTP,
        [
            "--config.reducer.alpha=1",
            "--config.schedule=[1,2,3,4]",
            "--config.batch_size=64",
            "--config.data.name=folder",
            "--config.data.dir=/photos=old",
            "--config.reducer.proportional_attention=false",
            "--config.model.mlp_ratio=3",
            "--config.data.mean=(0.5,)",
        ],
    )
    method = run_config.reduction.reducer
    assert (method.alpha, type(method.alpha)) == (1.0, float)
    assert run_config.reduction.schedule == (1, 2, 3, 4)
    assert run_config.run.batch_size == 64
    assert (run_config.data.name, run_config.data.dir) == ("folder", "/photos=old")
    assert method.proportional_attention is False
    model = build_model(run_config)
    assert model.mlp_ratio == 3
    assert model.removed == (1, 2, 3, 4)
    assert build_preprocessing(run_config.data, model).mean == (0.5,)


def test_overrides_set_sizes_of_every_architecture():
    run_config = config.load(
        GTP, ["--config.model.name=lvvit_t", "--config.model.stem_channels=32", "--config.model.embed_dim=48"]
    )
    assert run_config.model.overrides["stem_channels"] == 32


def test_last_override_of_budget_and_schedule_wins():
    model = build_model(config.load(GTP, ["--config.gmacs=0.006", "--config.schedule=2"]))
    assert model.removed == (2,) * model.depth
    assert build_model(config.load(GTP, ["--config.schedule=2", "--config.gmacs=0.006"])).removed != (2,) * model.depth


def test_budget_replaces_the_schedule():
    model = build_model(config.load(GTP, ["--config.gmacs=0.006"]))
    assert 0.0055 < tc.describe(model).gmacs <= 0.006


def test_reducer_none_disables_the_reduction():
    assert build_model(config.load(GTP, ["--config.reducer.name=none"])).reducer is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.reducer.alhpa=1", "unknown config key 'reducer.alhpa': did you mean 'reducer.alpha'?"),
        ("--config.optimizer.learning_rate=1", "unknown config key 'optimizer.learning_rate': did you mean"),
        ("--config.batch_size=many", "batch_size='many': must be an integer, such as 1024"),
        ("--config.batch_size=1.5", "batch_size=1.5: must be an integer, such as 1024"),
        ("--config.batch_size=true", "batch_size=True: must be an integer, such as 1024"),
        ("--config.epochs=[1]", "epochs=[1]: must be a number, such as 300.0"),
        ("--config.reducer=3", "unknown config key 'reducer'"),
        ("--config.data.mean=abc", "data.mean='abc': must be a tuple of numbers, such as (0.485, 0.456, 0.406)"),
        ("--config.data.mean=0.5", "data.mean=0.5: must be a tuple of numbers, such as (0.485, 0.456, 0.406)"),
        ("--config.data.crop_pct=foo", "data.crop_pct='foo': must be a number, such as 0.9"),
        ("--config.reducer.alpha=x", "alpha='x': must be a number; the default is 0.1"),
        ("--config.model.class_token=no", "model.class_token='no': must be True or False"),
        ("--confg.seed=3", "--confg.seed=3: expected an override of the form --config.KEY=VALUE"),
        ("--config.seed", "--config.seed: expected an override of the form --config.KEY=VALUE"),
    ],
)
def test_invalid_overrides_are_one_line_errors(argument, message):
    with pytest.raises(tc.InputError) as error:
        config.load(GTP, [argument])
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_new_reducer_resets_the_fields():
    model = build_model(config.load(GTP, ["--config.reducer.name=tcvit", "--config.reducer.match_order=1"]))
    assert model.reducer == tc.TCViT(match_order=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.batchsize = 64", "unknown config key 'batchsize': did you mean 'batch_size'?"),
        ("c.optimizer.learning_rate = 1.0", "unknown config key 'optimizer.learning_rate'"),
        ("c.batch_size = 'big'", "batch_size='big': must be an integer, such as 1024"),
    ],
)
def test_keys_of_files_are_checked(tmp_path, line, message):
    text = f"from tcvit_jax import config\ndef get_config():\n    c = config.default()\n    {line}\n    return c\n"
    (tmp_path / "custom.py").write_text(text)
    with pytest.raises(tc.InputError) as error:
        config.load(tmp_path / "custom.py")
    assert str(error.value).startswith(message)


def test_schedule_of_a_file_may_be_a_list(tmp_path):
    text = "from tcvit_jax import config\ndef get_config():\n    c = config.default()\n    c.reducer = {'name': 'tome'}\n    c.schedule = [1] * 12\n    return c\n"
    (tmp_path / "custom.py").write_text(text)
    assert config.load(tmp_path / "custom.py").reduction.schedule == (1,) * 12


def test_invalid_files_are_errors(tmp_path):
    with pytest.raises(tc.InputError, match=r"unknown config file .*digits_gpt.py': did you mean '.*digits_gtp.py'"):
        config.load(CONFIGS / "digits_gpt.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(tc.InputError, match=r"empty.py: get_config\(\) not found; a config file must define it"):
        config.load(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.reducer.name=gtb"], "unknown reducer 'gtb': did you mean 'gtp'?"),
        (["--config.schedule=9"], "schedule=9: must be <= 8; 9 tokens in each of 4 blocks are 36 of 36 patch tokens"),
        (["--config.schedule=[9,9,9,9]"], "schedule[3]=9: must be <= 8; one of the 9 patch tokens in block 3 must remain"),
        (["--config.model.name=deit_tinny_patch16_224"], "unknown model 'deit_tinny_patch16_224': did you mean 'deit_tiny_patch16_224'?"),
        (["--config.data.mean=(1,2,3)"], "data.mean=(1.0, 2.0, 3.0): must be one number in [0, 1] per channel"),
        (["--config.data.std=(0,)"], "data.std=(0.0,): must be one number in [0.001, 1] per channel"),
        (["--config.data.crop_pct=0"], "data.crop_pct=0.0: must be in [0.1, 10]"),
        (["--config.data.crop_mode=cente"], "unknown data.crop_mode 'cente': did you mean 'center'?"),
        (["--config.data.mean=(0,0.5,1)"], "data.mean=(0.0, 0.5, 1.0): must be one value per channel; the model has in_chans=1"),
    ],
)  # fmt: skip
def test_overrides_that_do_not_fit_the_model_are_errors(arguments, message):
    def build():
        run_config = config.load(GTP, arguments)
        build_preprocessing(run_config.data, build_model(run_config))

    with pytest.raises(tc.InputError) as error:
        build()
    assert str(error.value) == message


def test_config_files_of_the_installed_package_are_found(tmp_path, monkeypatch):
    (tmp_path / "share" / "configs").mkdir(parents=True)
    for file in CONFIGS.glob("*.py"):
        shutil.copy(file, tmp_path / "share" / "configs")
    monkeypatch.setattr(files, "INSTALLED", tmp_path / "share")
    monkeypatch.chdir(tmp_path)
    assert config.load("configs/deit_s_gtp.py:finetune").reduction.reducer == tc.GTP()
    with pytest.raises(
        tc.InputError, match=r"^unknown config file 'configs/digits_gpt.py': did you mean 'configs/digits_gtp.py'"
    ):
        config.load("configs/digits_gpt.py")
    # A file of the working directory comes first.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "deit_s_gtp.py").write_text("from tcvit_jax.config import default as get_config\n")
    assert config.load("configs/deit_s_gtp.py").reduction.reducer is None


PATHS = {
    "workdir": (), "data.dir": ("--config.data.name=folder",),
    "data.label_maps": ("--config.token_labels=1",), "weights": (), "distill.teacher": (),
}  # fmt: skip


@pytest.mark.parametrize("key", PATHS)
def test_paths_are_expanded_in_overrides_and_files(tmp_path, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUN", "seed_0")
    assert config.load(GTP, [*PATHS[key], f"--config.{key}=~/$RUN/${{RUN}}"]).values()[key] == "/home/me/seed_0/seed_0"
    run_config = config.load(GTP, [*PATHS[key]])
    assert config.override(run_config, [f"--config.{key}=~/x"]).values()[key] == "/home/me/x"
    text = f"from tcvit_jax import config\ndef get_config():\n    c = config.read({GTP!r})\n    c.{key} = '~/y'\n    return c\n"
    (tmp_path / "custom.py").write_text(text)
    assert config.load(tmp_path / "custom.py", PATHS[key]).values()[key] == "/home/me/y"
    with pytest.raises(tc.InputError) as error:
        config.load(GTP, [*PATHS[key], f"--config.{key}=$GONE/x"])
    assert str(error.value) == f"{key}='$GONE/x': environment variable 'GONE' is not set"
    # An override replaces the path of a file before it is expanded, and a saved configuration is read as it is.
    monkeypatch.delenv("RUN")
    (tmp_path / "custom.py").write_text(text.replace("~/y", "$RUN"))
    assert config.load(tmp_path / "custom.py", [*PATHS[key], f"--config.{key}=z"]).values()[key] == "z"
    saved = run_config.updated({key: "$RUN"})
    assert config.override(saved, ["--config.eval_batch_size=8"]).values()[key] == "$RUN"


def test_all_keys_of_paths_are_tested():
    assert set(PATHS) == configuration.PATH_KEYS


def test_other_strings_are_not_expanded():
    run_config = config.load(GTP, ["--config.weights=hf-hub:timm/x.y", "--config.data.eval_split=~"])
    assert (run_config.model.weights, run_config.data.eval_split) == ("hf-hub:timm/x.y", "~")
