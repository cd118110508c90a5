"""Checks across sections: keys that exclude each other, and keys that are set but have no effect."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from tcvit_jax.config.fields import Condition
from tcvit_jax.errors import InputError, conflicts, requires
from tcvit_jax.reducers import Reducer

Values = Mapping[str, Any]

# The teacher that is the model itself, without reduction.
DENSE = "dense"

_SET_WEIGHTS = "set --config.weights=PATH"


def _removes_tokens(values: Values) -> bool:
    return bool(np.any(values["schedule"])) or values["gmacs"] > 0


_REDUCER = Condition(
    "a reducer", lambda values: values["reducer.name"] != "none", "set --config.reducer.name=NAME, such as gtp"
)
_REMOVAL = Condition("a nonzero schedule or gmacs", _removes_tokens)
_MIXING_PROB = Condition("mixing.prob > 0", lambda values: values["mixing.prob"] > 0)
_TEACHER = Condition("a teacher", lambda values: values["distill.teacher"] != "", "set --config.distill.teacher=PATH")
_DISTILL_WEIGHT = Condition("distill.weight > 0", lambda values: values["distill.weight"] > 0)
_SOFT_DISTILLATION = Condition("distill.kind='soft'", lambda values: values["distill.kind"] == "soft")
_WARMUP = Condition("optimizer.warmup_epochs > 0", lambda values: values["optimizer.warmup_epochs"] > 0)
_REDUCTION_WARMUP = Condition("reduction_warmup.epochs > 0", lambda values: values["reduction_warmup.epochs"] > 0)
_MIXUP_OR_CUTMIX = Condition(
    "mixing.mixup > 0 or mixing.cutmix > 0", lambda values: values["mixing.mixup"] > 0 or values["mixing.cutmix"] > 0
)
_MIXUP_AND_CUTMIX = Condition(
    "mixing.mixup > 0 and mixing.cutmix > 0", lambda values: values["mixing.mixup"] > 0 and values["mixing.cutmix"] > 0
)
_LABELS = Condition(
    "distill.weight < 1 or token_labels > 0",
    lambda values: values["distill.teacher"] == "" or values["distill.weight"] < 1 or values["token_labels"] > 0,
)

# The conditions under which each key has an effect. Keys of `model.` are not listed: `create_model` raises an error for
# arguments that an architecture does not have. A test checks that every other key is listed.
REQUIREMENTS: Mapping[str, tuple[Condition, ...]] = {
    **dict.fromkeys(("workdir", "seed", "batch_size", "eval_batch_size", "epochs", "accumulate"), ()),
    **dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), ()),
    "weights": (),
    "new_head": (Condition("weights", lambda values: values["weights"] != "", _SET_WEIGHTS),),
    "reducer.name": (_REMOVAL,),
    "schedule": (_REDUCER, Condition("gmacs=0", lambda values: values["gmacs"] == 0)),
    "gmacs": (_REDUCER,),
    "schedule_family": (Condition("gmacs > 0", lambda values: values["gmacs"] > 0),),
    "reduction_warmup.epochs": (_REDUCER, _REMOVAL),
    "reduction_warmup.start_epoch": (_REDUCTION_WARMUP,),
    "reduction_warmup.stages": (_REDUCTION_WARMUP,),
    **dict.fromkeys(("data.name", "data.train_split", "data.eval_split", "data.workers"), ()),
    "data.dir": (Condition("data.name != 'digits'", lambda values: values["data.name"] != "digits"),),
    "data.verify": (
        Condition(
            "data.name='tfrecord' or a TFDS dataset",
            lambda values: values["data.name"] not in ("digits", "folder", "pairs"),
        ),
    ),
    "data.augmentation": (),
    "data.shift": (Condition("data.augmentation='shift'", lambda values: values["data.augmentation"] == "shift"),),
    **dict.fromkeys(("data.auto_augment", "data.color_jitter", "data.train_interpolation", "data.repeats"), ()),
    "data.label_maps": (Condition("token_labels > 0", lambda values: values["token_labels"] > 0),),
    **dict.fromkeys(("data.mean", "data.std", "data.crop_pct", "data.interpolation", "data.crop_mode"), ()),
    **dict.fromkeys(("data.resize", "data.crop_rounding"), ()),
    "mixing.mixup": (_MIXING_PROB,),
    "mixing.cutmix": (_MIXING_PROB,),
    **dict.fromkeys(("mixing.mix_token", "random_erasing", "token_labels"), ()),
    "mixing.prob": (_MIXUP_OR_CUTMIX,),
    "mixing.switch_prob": (_MIXUP_AND_CUTMIX,),
    "label_smoothing": (_LABELS,),
    "distill.teacher": (
        Condition(
            "distill.weight > 0 or distill.tokens > 0",
            lambda values: values["distill.weight"] > 0 or values["distill.tokens"] > 0,
        ),
    ),
    "distill.weight": (_TEACHER,),
    "distill.tokens": (_TEACHER,),
    "distill.kind": (_TEACHER, _DISTILL_WEIGHT),
    "distill.temperature": (_TEACHER, _DISTILL_WEIGHT, _SOFT_DISTILLATION),
    **dict.fromkeys(("optimizer.lr", "optimizer.lr_batch_size", "optimizer.min_lr", "optimizer.warmup_epochs"), ()),
    "optimizer.warmup_lr": (_WARMUP,),
    "optimizer.warmup_prefix": (_WARMUP,),
    **dict.fromkeys(("optimizer.weight_decay", "optimizer.b1", "optimizer.b2", "optimizer.clip_norm"), ()),
    **dict.fromkeys(("optimizer.layer_decay", "optimizer.ema_decay"), ()),
    **dict.fromkeys(("mesh.data", "mesh.model"), ()),
}


def find_inactive(values: Values, defaults: Values, reducer: Reducer | None) -> Iterator[tuple[str, InputError]]:
    """Yield every key that is set but has no effect, with the error that names its requirement.

    Args:
        values: The value of every key.
        defaults: The default of every key except the reducer's fields. A key counts as set if its value differs.
        reducer: The reducer, whose own fields may depend on each other.

    Yields:
        The key and its error, such as `schedule_family='stages' requires gmacs > 0`.
    """
    for key, conditions in REQUIREMENTS.items():
        unmet = [condition for condition in conditions if not condition.holds(values)]
        if unmet and values[key] != defaults[key]:
            yield key, requires(f"{key}={values[key]!r}", unmet[0].text, unmet[0].hint)
    if reducer is None:
        return
    # Reducers word requirements by their field names. Here, the same fields are keys.
    field_names = "|".join(field.name for field in fields(reducer))
    for name, requirement in reducer.changed_inactive_fields().items():
        key = f"reducer.{name}"
        yield (
            key,
            requires(f"{key}={values[key]!r}", re.sub(rf"\b({field_names})(?= ?[=<>])", r"reducer.\1", requirement)),
        )


def check(values: Values, defaults: Values, reducer: Reducer | None) -> None:
    """Check that every key that is set has an effect, and that no keys exclude each other.

    Args:
        values: The value of every key.
        defaults: The default of every key except the reducer's fields.
        reducer: The reducer.

    Raises:
        InputError: A key is set but has no effect, or two keys exclude each other.
    """
    for _, error in find_inactive(values, defaults, reducer):
        raise error
    if values["distill.teacher"] == DENSE:
        if not values["weights"]:
            raise requires("distill.teacher='dense'", "weights", _SET_WEIGHTS)
        if values["new_head"]:
            raise conflicts("distill.teacher='dense'", "new_head=True", "set distill.teacher to a trained checkpoint")
    if values["token_labels"] and (values["mixing.mixup"] or values["mixing.cutmix"]):
        hint = "set both to 0, and mixing.mix_token=True instead"
        raise conflicts(f"token_labels={values['token_labels']}", "mixing.mixup or mixing.cutmix", hint)
