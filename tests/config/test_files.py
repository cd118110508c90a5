"""Configuration files and overrides."""

from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import assembly, config
from tcvit_jax.assembly import build_preprocessing

CONFIGS = Path(__file__).parent.parent.parent / "configs"
GTP = str(CONFIGS / "digits_gtp.py")


def build_model(loaded):
    return assembly.build_model(loaded.model, loaded.reduction)


def test_overrides_take_the_kind_of_what_they_replace():
    loaded = config.load(
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
    method = loaded.reduction.reducer
    assert (method.alpha, type(method.alpha)) == (1.0, float)
    assert loaded.reduction.schedule == (1, 2, 3, 4)
    assert loaded.run.batch_size == 64
    assert (loaded.data.name, loaded.data.dir) == ("folder", "/photos=old")
    assert method.proportional_attention is False
    model = build_model(loaded)
    assert model.mlp_ratio == 3
    assert model.removed == (1, 2, 3, 4)
    assert build_preprocessing(loaded.data, model).mean == (0.5,)


def test_sizes_of_every_architecture_can_be_set():
    loaded = config.load(
        GTP, ["--config.model.name=lvvit_t", "--config.model.stem_channels=32", "--config.model.embed_dim=48"]
    )
    assert loaded.model.overrides["stem_channels"] == 32


def test_the_later_word_of_budget_and_schedule_is_meant():
    model = build_model(config.load(GTP, ["--config.gmacs=0.006", "--config.schedule=2"]))
    assert model.removed == (2,) * model.depth
    assert build_model(config.load(GTP, ["--config.schedule=2", "--config.gmacs=0.006"])).removed != (2,) * model.depth


def test_a_budget_takes_the_place_of_the_schedule():
    model = build_model(config.load(GTP, ["--config.gmacs=0.006"]))
    assert 0.0055 < tc.describe(model).gmacs <= 0.006


def test_a_reducer_can_be_switched_off():
    assert build_model(config.load(GTP, ["--config.reducer.name=none"])).reducer is None


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.reducer.alhpa=1", "unknown config key 'reducer.alhpa': did you mean 'reducer.alpha'?"),
        ("--config.optimizer.learning_rate=1", "unknown config key 'optimizer.learning_rate': did you mean"),
        ("--config.batch_size=many", "config key 'batch_size' takes int, such as 1024, not 'many'"),
        ("--config.batch_size=1.5", "config key 'batch_size' takes int, such as 1024, not 1.5"),
        ("--config.batch_size=true", "config key 'batch_size' takes int, such as 1024, not True"),
        ("--config.epochs=[1]", "config key 'epochs' takes float, such as 300.0, not [1]"),
        ("--config.reducer=3", "unknown config key 'reducer'"),
        ("--config.data.mean=abc", "config key 'data.mean' takes tuple, such as (0.485, 0.456, 0.406), not 'abc'"),
        ("--config.data.mean=0.5", "config key 'data.mean' takes tuple, such as (0.485, 0.456, 0.406), not 0.5"),
        ("--config.data.crop_pct=foo", "config key 'data.crop_pct' takes float, such as 0.9, not 'foo'"),
        ("--config.reducer.alpha=x", "alpha='x': must be a number; the default is 0.1"),
        ("--config.model.class_token=no", "config key 'model.class_token' takes bool, such as True, not 'no'"),
        ("--confg.seed=3", "cannot use argument '--confg.seed=3': overrides have the form --config.KEY=VALUE"),
        ("--config.seed", "cannot use argument '--config.seed': overrides have the form --config.KEY=VALUE"),
    ],
)
def test_mistaken_overrides(argument, message):
    with pytest.raises(tc.InputError) as caught:
        config.load(GTP, [argument])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_another_reducer_brings_its_own_fields():
    model = build_model(config.load(GTP, ["--config.reducer.name=tcvit", "--config.reducer.match_order=1"]))
    assert model.reducer == tc.TCViT(match_order=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.batchsize = 64", "unknown config key 'batchsize': did you mean 'batch_size'?"),
        ("c.optimizer.learning_rate = 1.0", "unknown config key 'optimizer.learning_rate'"),
        ("c.batch_size = 'big'", "config key 'batch_size' takes int, such as 1024, not 'big'"),
    ],
)
def test_a_file_is_held_to_the_same_keys(tmp_path, line, message):
    text = f"from tcvit_jax import config\ndef get_config():\n    c = config.default()\n    {line}\n    return c\n"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(tc.InputError) as caught:
        config.load(tmp_path / "mine.py")
    assert str(caught.value).startswith(message)


def test_a_file_may_give_a_list_as_its_schedule(tmp_path):
    text = "from tcvit_jax import config\ndef get_config():\n    c = config.default()\n    c.reducer = {'name': 'tome'}\n    c.schedule = [1] * 12\n    return c\n"
    (tmp_path / "mine.py").write_text(text)
    assert config.load(tmp_path / "mine.py").reduction.schedule == (1,) * 12


def test_mistaken_files(tmp_path):
    with pytest.raises(tc.InputError, match=r"unknown config file .*digits_gpt.py': did you mean '.*digits_gtp.py'"):
        config.load(CONFIGS / "digits_gpt.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(tc.InputError, match=r"defines no get_config\(\)"):
        config.load(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.reducer.name=gtb"], "unknown reducer 'gtb': did you mean 'gtp'?"),
        (["--config.schedule=9"], "schedule=9: must be <= 8; 9 tokens in each of 4 blocks are 36 of 36 patch tokens"),
        (["--config.schedule=[9,9,9,9]"], "schedule[3]=9: must be <= 8; one of the 9 patch tokens in block 3 must remain"),
        (["--config.model.name=deit_tinny_patch16_224"], "unknown model 'deit_tinny_patch16_224': did you mean 'deit_tiny_patch16_224'?"),
        (["--config.data.mean=(1,2,3)"], "data.mean=(1.0, 2.0, 3.0): must be one value for each of 1 channels"),
    ],
)  # fmt: skip
def test_mistakes_that_show_when_the_model_is_built(arguments, message):
    def build():
        loaded = config.load(GTP, arguments)
        build_preprocessing(loaded.data, build_model(loaded))

    with pytest.raises(tc.InputError) as caught:
        build()
    assert str(caught.value) == message
