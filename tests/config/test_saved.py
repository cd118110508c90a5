"""Configurations that runs and checkpoints hold."""

import json

import pytest

import tcvit_jax as tc
from tcvit_jax import config
from tcvit_jax.config import Config, Reduction

# As version 0.1.0 wrote the run of `configs/digits_gtp.py --config.gmacs=0.006`, with keys that had no effect.
EARLIER = {
    "workdir": "runs/digits_gtp", "seed": 3,
    "model": {"name": "deit_tiny_patch16_224", "img_size": 12, "patch_size": 2, "depth": 4, "drop_path_rate": 0.05},
    "reducer": {"name": "gtp", "alpha": 0.2, "neighbors": 8},
    "schedule": 6, "gmacs": 0.006, "schedule_family": "keep_rate", "new_head": True,
    "data": {"name": "digits", "dir": "nowhere", "augmentation": "crop", "shift": 4, "mean": [0.3]},
    "distill": {"teacher": "", "tokens": 0.5, "kind": "hard"},
    "optimizer": {"lr": 0.002, "warmup_epochs": 0.0, "warmup_lr": 1e-6},
}  # fmt: skip


def test_an_earlier_configuration_keeps_what_had_an_effect():
    found = config.restore(json.loads(json.dumps(EARLIER)))
    assert found.reduction == Reduction(tc.GTP(alpha=0.2), gmacs=0.006, schedule_family="keep_rate")
    assert (found.run.seed, found.model.overrides["img_size"], found.data.mean) == (3, 12, (0.3,))
    assert (found.data.dir, found.data.shift, found.model.new_head) == ("", 1, False)
    assert found.distill == Config().distill
    assert (found.optimizer.lr, found.optimizer.warmup_lr) == (0.002, 0.0)


def test_a_configuration_of_this_version_comes_back():
    made = Config().updated({"reducer.name": "tcvit", "reducer.order": 3, "schedule": 4})
    assert config.restore(json.loads(json.dumps(made.to_mapping()))) == made
    assert config.canonicalize(made.to_mapping()) == made.to_mapping()


def test_a_reducer_that_removed_nothing_is_none():
    assert config.restore({"reducer": {"name": "gtp", "alpha": 0.2}}) == Config()


@pytest.mark.parametrize(
    ("values", "version", "message"),
    [
        ({"sede": 3}, "0.0.9", "the configuration was written by tcvit_jax 0.0.9, and this one cannot use it: unknown config key 'sede'"),
        ({"seed": "three"}, None, "the configuration was written by an earlier version of tcvit_jax, and this one cannot use it: config key 'seed' takes int"),
        ({"reducer": {"name": "gpt"}, "schedule": 3}, None, "the configuration was written by an earlier version of tcvit_jax, and this one cannot use it: unknown reducer 'gpt'"),
    ],
)  # fmt: skip
def test_what_this_version_cannot_use_names_the_one_that_wrote_it(values, version, message):
    with pytest.raises(tc.InputError) as caught:
        config.restore(values, version)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
