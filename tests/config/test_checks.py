"""That no key is set without effect, and that sections fit each other."""

import pytest

import tcvit_jax as tc
from tcvit_jax.config import Config
from tcvit_jax.config.checks import REQUIREMENTS
from tcvit_jax.config.configuration import DEFAULTS

# For every key with needs: a value that is not its default, and changes that meet its needs one after the other.
TOME = {"reducer.name": "tome", "schedule": 4}
TEACHER = {"distill.teacher": "runs/teacher"}
MIXUP, CUTMIX = {"mixing.mixup": 0.8}, {"mixing.cutmix": 1.0}
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
# What leaves a key without effect where the defaults do not.
WITHOUT = {
    "data.dir": {"data.name": "digits"},
    "optimizer.warmup_lr": {"optimizer.warmup_epochs": 0.0},
    "optimizer.warmup_prefix": {"optimizer.warmup_epochs": 0.0},
    "label_smoothing": {**TEACHER, "distill.weight": 1.0},
    "mixing.mixup": {**CUTMIX, "mixing.prob": 0.0},
    "mixing.cutmix": {**MIXUP, "mixing.prob": 0.0},
    "distill.teacher": {"distill.weight": 0.0},
}


def test_every_key_has_its_needs():
    assert set(REQUIREMENTS) == {key for key in DEFAULTS if not key.startswith("model.")}
    assert set(CASES) == {key for key, needs in REQUIREMENTS.items() if needs}


@pytest.mark.parametrize("key", CASES)
def test_a_key_without_effect_is_an_error(key):
    value, changes = CASES[key]
    with pytest.raises(tc.InputError) as caught:
        Config().updated({**WITHOUT.get(key, {}), key: value})
    errors = {f"{key}={value!r} has no effect: it requires {needed.text}" for needed in REQUIREMENTS[key]}
    if key in ("mixing.mixup", "mixing.cutmix"):
        # A probability of 0 leaves the other one without effect as well, and the first of them is named.
        assert str(caught.value).endswith("has no effect: it requires mixing.prob > 0")
    elif key == "distill.teacher":
        # A weight of 0 has itself no effect without anything else to learn from.
        assert str(caught.value).endswith("has no effect: it requires distill.weight > 0 or distill.tokens > 0")
    else:
        assert str(caught.value) in errors
    assert Config().updated({**WITHOUT.get(key, {}), **changes, key: value}).values()[key] == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # The five that used to pass without a word, and their kin.
        ({"schedule_family": "stages"}, "schedule_family='stages' has no effect: it requires gmacs > 0"),
        ({"data.shift": 3}, "data.shift=3 has no effect: it requires data.augmentation='shift'"),
        (
            {**TOME, "reduction_warmup.stages": 4},
            "reduction_warmup.stages=4 has no effect: it requires reduction_warmup.epochs > 0",
        ),
        ({"new_head": True}, "new_head=True has no effect: it requires weights"),
        (
            {"optimizer.warmup_epochs": 0.0, "optimizer.warmup_lr": 1e-6},
            "optimizer.warmup_lr=1e-06 has no effect: it requires optimizer.warmup_epochs > 0",
        ),
        (
            {**TEACHER, "distill.kind": "hard", "distill.temperature": 2.0},
            "distill.temperature=2.0 has no effect: it requires distill.kind='soft'",
        ),
        (
            {**TEACHER, "distill.weight": 0.0, "distill.tokens": 0.5, "distill.kind": "hard"},
            "distill.kind='hard' has no effect: it requires distill.weight > 0",
        ),
        ({**TOME, "schedule": (0,) * 12}, "reducer.name='tome' has no effect: it requires schedule or gmacs"),
        (
            {"reducer.name": "tcvit", "schedule": 4, "reducer.temperature": 0.5},
            "reducer.temperature=0.5 has no effect: it requires fuse='soft' or fuse='topm'",
        ),
        ({"distill.teacher": "dense"}, "distill.teacher='dense' requires weights: set --config.weights=PATH"),
        (
            {"distill.teacher": "dense", "weights": "w.npz", "new_head": True},
            "distill.teacher='dense' cannot be combined with new_head=True: name a trained checkpoint",
        ),
        (
            {"token_labels": 1.0, **MIXUP},
            "token_labels=1.0 cannot be combined with mixing.mixup or mixing.cutmix: set them to 0, and "
            "mixing.mix_token=True instead",
        ),
    ],
)
def test_keys_that_do_not_fit_each_other(changes, message):
    with pytest.raises(tc.InputError) as caught:
        Config().updated(changes)
    assert str(caught.value) == message


def test_a_file_with_a_budget_and_a_schedule_is_refused():
    values = {"reducer": {"name": "tome"}, "schedule": 4, "gmacs": 3.0}
    with pytest.raises(tc.InputError, match="schedule=4 has no effect: it requires gmacs=0"):
        Config.from_mapping(values)


def test_a_model_without_reduction_needs_nothing_of_one_with_it():
    evit = Config().updated(
        {"reducer.name": "evit", "schedule": 8, "reduction_warmup.epochs": 100.0, "reduction_warmup.start_epoch": 10.0}
    )
    assert evit.updated({"reducer.name": "none"}) == Config()
    assert evit.updated({"gmacs": 0.0}) == evit
