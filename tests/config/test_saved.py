"""Configurations that were saved in runs and checkpoints."""

import json
import math
from contextlib import suppress

import pytest

import tcvit_jax as tc
from tcvit_jax import config
from tcvit_jax.config import Config, Reduction

# Written by version 0.1.0 for `configs/digits_gtp.py --config.gmacs=0.006`, including keys that had no effect.
SAVED = {
    "workdir": "runs/digits_gtp", "seed": 3,
    "model": {"name": "deit_tiny_patch16_224", "img_size": 12, "patch_size": 2, "depth": 4, "drop_path_rate": 0.05},
    "reducer": {"name": "gtp", "alpha": 0.2, "neighbors": 8},
    "schedule": 6, "gmacs": 0.006, "schedule_family": "keep_rate", "new_head": True,
    "data": {"name": "digits", "dir": "nowhere", "augmentation": "crop", "shift": 4, "mean": [0.3]},
    "distill": {"teacher": "", "tokens": 0.5, "kind": "hard"},
    "optimizer": {"lr": 0.002, "warmup_epochs": 0.0, "warmup_lr": 1e-6},
}  # fmt: skip


def test_restore_resets_keys_without_effect():
    restored = config.restore(json.loads(json.dumps(SAVED)))
    assert restored.reduction == Reduction(tc.GTP(alpha=0.2), gmacs=0.006, schedule_family="keep_rate")
    assert (restored.run.seed, restored.model.overrides["img_size"], restored.data.mean) == (3, 12, (0.3,))
    assert (restored.data.dir, restored.data.shift, restored.model.new_head) == ("", 1, False)
    assert restored.distill == Config().distill
    assert (restored.optimizer.lr, restored.optimizer.warmup_lr) == (0.002, 0.0)


@pytest.mark.parametrize("value", [{"a": 1}, "²", [1], [[1]], None, -1, 10**30, True, math.nan, math.inf, [None]])
def test_every_value_of_a_wrong_kind_is_a_one_line_error(value):
    """A saved file may hold anything. The architecture checks the values of `model.`."""
    saved = config.load("configs/digits_gtp.py").values()
    for key in saved:
        restored = None
        with suppress(tc.InputError):
            restored = config.restore({**saved, key: value})
        if restored is not None and isinstance(value, float) and not key.startswith("model."):
            assert math.isfinite(restored.values()[key]), key


def test_value_of_a_wrong_type_in_a_saved_configuration_names_its_key():
    with pytest.raises(tc.InputError, match="eval_batch_size='many': must be an integer, such as "):
        config.restore({**SAVED, "eval_batch_size": "many"})
    with pytest.raises(tc.InputError, match="optimizer.lr=inf: must be finite"):
        config.restore({**SAVED, "optimizer": {"lr": math.inf}})


def test_configuration_of_this_version_round_trips():
    original = Config().updated({"reducer.name": "tcvit", "reducer.order": 3, "schedule": 4})
    assert config.restore(json.loads(json.dumps(original.to_mapping()))) == original
    assert config.canonicalize(original.to_mapping()) == original.to_mapping()


def test_reducer_without_schedule_is_reset():
    assert config.restore({"reducer": {"name": "gtp", "alpha": 0.2}}) == Config()


@pytest.mark.parametrize(
    ("values", "version", "message"),
    [
        ({"sede": 3}, "0.0.9", "saved configuration: written by tcvit_jax 0.0.9, not valid in this version; unknown config key 'sede'"),
        ({"seed": "three"}, None, "saved configuration: written by an earlier version of tcvit_jax, not valid in this version; seed='three': must be an integer"),
        ({"reducer": {"name": "gpt"}, "schedule": 3}, None, "saved configuration: written by an earlier version of tcvit_jax, not valid in this version; unknown reducer 'gpt'"),
    ],
)  # fmt: skip
def test_unsupported_configuration_names_the_version_that_wrote_it(values, version, message):
    with pytest.raises(tc.InputError) as error:
        config.restore(values, version)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
