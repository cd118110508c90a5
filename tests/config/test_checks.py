"""Keys that are set without effect, and keys that exclude each other."""

import pytest

import tcvit_jax as tc
from tcvit_jax.config import Config
from tcvit_jax.config.checks import REQUIREMENTS
from tcvit_jax.config.configuration import DEFAULTS
from tcvit_jax.errors import requires

TOME = {"reducer.name": "tome", "schedule": 4}
TEACHER = {"distill.teacher": "runs/teacher"}
MIXUP, CUTMIX = {"mixing.mixup": 0.8}, {"mixing.cutmix": 1.0}
# For every key with requirements: a value that is not the default, and changes that meet the requirements.
CASES = {
    "new_head": (True, {"weights": "w.npz"}),
    "reducer.name": ("tome", {"schedule": 4}),
    "schedule": (4, {"reducer.name": "tome"}),
    "gmacs": (3.0, {"reducer.name": "tome"}),
    "schedule_family": ("stages", {"reducer.name": "tome", "gmacs": 3.0}),
    "reduction_warmup.epochs": (5.0, TOME),
    "reduction_warmup.start_epoch": (1.0, {**TOME, "reduction_warmup.epochs": 5.0}),
    "reduction_warmup.stages": (3, {**TOME, "reduction_warmup.epochs": 5.0}),
    "data.dir": ("images", {"data.name": "folder"}),
    "data.verify": (False, {"data.name": "tfrecord"}),
    "data.shift": (2, {"data.augmentation": "shift"}),
    "data.label_maps": ("maps", {"token_labels": 1.0}),
    "mixing.mixup": (0.8, {"mixing.prob": 0.5}),
    "mixing.cutmix": (1.0, {"mixing.prob": 0.5}),
    "mixing.prob": (0.5, MIXUP),
    "mixing.switch_prob": (0.3, {**MIXUP, **CUTMIX}),
    "label_smoothing": (0.2, {"distill.weight": 0.5}),
    "distill.teacher": ("runs/teacher", {"distill.weight": 0.5}),
    "distill.weight": (0.3, TEACHER),
    "distill.tokens": (0.5, TEACHER),
    "distill.kind": ("hard", TEACHER),
    "distill.temperature": (2.0, TEACHER),
    "optimizer.warmup_lr": (1e-6, {"optimizer.warmup_epochs": 5.0}),
    "optimizer.warmup_prefix": (False, {"optimizer.warmup_epochs": 5.0}),
}
# Changes that make a key inactive, for keys whose requirements the defaults meet.
INACTIVE = {
    "data.dir": {"data.name": "digits"},
    "data.verify": {"data.name": "folder"},
    "optimizer.warmup_lr": {"optimizer.warmup_epochs": 0.0},
    "optimizer.warmup_prefix": {"optimizer.warmup_epochs": 0.0},
    "label_smoothing": {**TEACHER, "distill.weight": 1.0},
    "mixing.mixup": {**CUTMIX, "mixing.prob": 0.0},
    "mixing.cutmix": {**MIXUP, "mixing.prob": 0.0},
    "distill.teacher": {"distill.weight": 0.0},
}


def test_every_key_has_requirements():
    assert set(REQUIREMENTS) == {key for key in DEFAULTS if not key.startswith("model.")}
    assert set(CASES) == {key for key, conditions in REQUIREMENTS.items() if conditions}


@pytest.mark.parametrize("key", CASES)
def test_key_without_effect_is_an_error(key):
    value, changes = CASES[key]
    with pytest.raises(tc.InputError) as error:
        Config().updated({**INACTIVE.get(key, {}), key: value})
    messages = {str(requires(f"{key}={value!r}", each.text, each.hint)) for each in REQUIREMENTS[key]}
    if key in ("mixing.mixup", "mixing.cutmix"):
        # With a probability of 0, the other key has no effect either; the error names the first of them.
        assert str(error.value).endswith(" requires mixing.prob > 0")
    else:
        assert str(error.value) in messages
    assert Config().updated({**INACTIVE.get(key, {}), **changes, key: value}).values()[key] == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule_family": "stages"}, "schedule_family='stages' requires gmacs > 0"),
        ({"data.shift": 3}, "data.shift=3 requires data.augmentation='shift'"),
        (
            {**TOME, "reduction_warmup.stages": 4},
            "reduction_warmup.stages=4 requires reduction_warmup.epochs > 0",
        ),
        ({"new_head": True}, "new_head=True requires weights: set --config.weights=PATH"),
        (
            {"optimizer.warmup_epochs": 0.0, "optimizer.warmup_lr": 1e-6},
            "optimizer.warmup_lr=1e-06 requires optimizer.warmup_epochs > 0",
        ),
        (
            {**TEACHER, "distill.kind": "hard", "distill.temperature": 2.0},
            "distill.temperature=2.0 requires distill.kind='soft'",
        ),
        (
            {**TEACHER, "distill.weight": 0.0, "distill.tokens": 0.5, "distill.kind": "hard"},
            "distill.kind='hard' requires distill.weight > 0",
        ),
        ({**TOME, "schedule": (0,) * 12}, "reducer.name='tome' requires a nonzero schedule or gmacs"),
        (
            {"reducer.name": "tcvit", "schedule": 4, "reducer.temperature": 0.5},
            "reducer.temperature=0.5 requires reducer.fuse='soft' or reducer.fuse='topm'",
        ),
        ({"distill.teacher": "dense"}, "distill.teacher='dense' requires weights: set --config.weights=PATH"),
        (
            {"distill.teacher": "dense", "weights": "w.npz", "new_head": True},
            "distill.teacher='dense' cannot be combined with new_head=True: set distill.teacher to a trained checkpoint",
        ),
        (
            {"token_labels": 1.0, **MIXUP},
            "token_labels=1.0 cannot be combined with mixing.mixup or mixing.cutmix: set both to 0, and "
            "mixing.mix_token=True instead",
        ),
    ],
)
def test_inconsistent_keys_are_errors(changes, message):
    with pytest.raises(tc.InputError) as error:
        Config().updated(changes)
    assert str(error.value) == message


def test_mapping_with_budget_and_schedule_is_an_error():
    values = {"reducer": {"name": "tome"}, "schedule": 4, "gmacs": 3.0}
    with pytest.raises(tc.InputError, match="schedule=4 requires gmacs=0"):
        Config.from_mapping(values)


def test_removing_the_reducer_resets_its_keys():
    evit = Config().updated(
        {"reducer.name": "evit", "schedule": 8, "reduction_warmup.epochs": 100.0, "reduction_warmup.start_epoch": 10.0}
    )
    assert evit.updated({"reducer.name": "none"}) == Config()
    assert evit.updated({"gmacs": 0.0}) == evit
