"""Sections checked against each other, and that no key is set without effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tcvit_jax.config.fields import Condition
from tcvit_jax.errors import InputError
from tcvit_jax.reducers import Reducer

Values = Mapping[str, Any]


def _reduces(values: Values) -> bool:
    return bool(np.any(values["schedule"])) or values["gmacs"] > 0


_REDUCER = Condition("reducer.name", lambda values: values["reducer.name"] != "none")
_REMOVAL = Condition("schedule or gmacs", _reduces)
_DRAWN = Condition("mixing.prob > 0", lambda values: values["mixing.prob"] > 0)
_TEACHER = Condition("distill.teacher", lambda values: values["distill.teacher"] != "")
_DISTILLED = Condition("distill.weight > 0", lambda values: values["distill.weight"] > 0)
_SOFT = Condition("distill.kind='soft'", lambda values: values["distill.kind"] == "soft")
_WARMUP = Condition("optimizer.warmup_epochs > 0", lambda values: values["optimizer.warmup_epochs"] > 0)
_REDUCTION_WARMUP = Condition("reduction_warmup.epochs > 0", lambda values: values["reduction_warmup.epochs"] > 0)
_MIXED = Condition(
    "mixing.mixup or mixing.cutmix", lambda values: values["mixing.mixup"] > 0 or values["mixing.cutmix"] > 0
)
_SWITCHED = Condition(
    "both mixing.mixup and mixing.cutmix", lambda values: values["mixing.mixup"] > 0 and values["mixing.cutmix"] > 0
)
_LABELED = Condition(
    "distill.weight < 1 or token_labels > 0",
    lambda values: values["distill.teacher"] == "" or values["distill.weight"] < 1 or values["token_labels"] > 0,
)

# What every key needs to have an effect, but for `model.*`: `create_model` refuses what an architecture does not have.
# A new key is added here too: a test compares this table with the sections.
REQUIREMENTS: Mapping[str, tuple[Condition, ...]] = {
    **dict.fromkeys(("workdir", "seed", "batch_size", "eval_batch_size", "epochs", "accumulate"), ()),
    **dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), ()),
    "weights": (),
    "new_head": (Condition("weights", lambda values: values["weights"] != ""),),
    "reducer.name": (_REMOVAL,),
    "schedule": (_REDUCER, Condition("gmacs=0", lambda values: values["gmacs"] == 0)),
    "gmacs": (_REDUCER,),
    "schedule_family": (Condition("gmacs > 0", lambda values: values["gmacs"] > 0),),
    "reduction_warmup.epochs": (_REDUCER, _REMOVAL),
    "reduction_warmup.start_epoch": (_REDUCTION_WARMUP,),
    "reduction_warmup.stages": (_REDUCTION_WARMUP,),
    **dict.fromkeys(("data.name", "data.train_split", "data.eval_split", "data.workers"), ()),
    "data.dir": (Condition("another data.name than 'digits'", lambda values: values["data.name"] != "digits"),),
    "data.augmentation": (),
    "data.shift": (Condition("data.augmentation='shift'", lambda values: values["data.augmentation"] == "shift"),),
    **dict.fromkeys(("data.auto_augment", "data.color_jitter", "data.train_interpolation", "data.repeats"), ()),
    "data.label_maps": (Condition("token_labels > 0", lambda values: values["token_labels"] > 0),),
    **dict.fromkeys(("data.mean", "data.std", "data.crop_pct", "data.interpolation", "data.crop_mode"), ()),
    "mixing.mixup": (_DRAWN,),
    "mixing.cutmix": (_DRAWN,),
    **dict.fromkeys(("mixing.mix_token", "random_erasing", "token_labels"), ()),
    "mixing.prob": (_MIXED,),
    "mixing.switch_prob": (_SWITCHED,),
    "label_smoothing": (_LABELED,),
    "distill.teacher": (
        Condition(
            "distill.weight > 0 or distill.tokens > 0",
            lambda values: values["distill.weight"] > 0 or values["distill.tokens"] > 0,
        ),
    ),
    "distill.weight": (_TEACHER,),
    "distill.tokens": (_TEACHER,),
    "distill.kind": (_TEACHER, _DISTILLED),
    "distill.temperature": (_TEACHER, _DISTILLED, _SOFT),
    **dict.fromkeys(("optimizer.lr", "optimizer.lr_batch_size", "optimizer.min_lr", "optimizer.warmup_epochs"), ()),
    "optimizer.warmup_lr": (_WARMUP,),
    "optimizer.warmup_prefix": (_WARMUP,),
    **dict.fromkeys(("optimizer.weight_decay", "optimizer.b1", "optimizer.b2", "optimizer.clip_norm"), ()),
    **dict.fromkeys(("optimizer.layer_decay", "optimizer.ema_decay"), ()),
    **dict.fromkeys(("mesh.data", "mesh.model"), ()),
}


def unread(values: Values, defaults: Values, reducer: Reducer | None) -> Iterator[tuple[str, str]]:
    """Yield every key that is set and has no effect, with what it needs.

    Args:
        values: of every key.
        defaults: of every key but the reducer's fields; a key is set where its value is another one.
        reducer: the method, whose own fields may need each other.
    """
    for key, needs in REQUIREMENTS.items():
        unmet = [need.text for need in needs if not need.holds(values)]
        if unmet and values[key] != defaults[key]:
            yield key, unmet[0]
    for name, words in reducer.set_inactive_fields().items() if reducer else ():
        yield f"reducer.{name}", words


def check(values: Values, defaults: Values, reducer: Reducer | None) -> None:
    """Raise an `InputError` for the first key that is set and has no effect, or for keys that exclude each other."""
    for key, words in unread(values, defaults, reducer):
        raise InputError(f"{key}={values[key]!r} has no effect: it requires {words}")
    if values["distill.teacher"] == DENSE:
        if not values["weights"]:
            raise InputError("distill.teacher='dense' requires weights: set --config.weights=PATH")
        if values["new_head"]:
            raise InputError("distill.teacher='dense' cannot be combined with new_head=True: name a trained checkpoint")
    if values["token_labels"] and (values["mixing.mixup"] or values["mixing.cutmix"]):
        raise InputError(
            f"token_labels={values['token_labels']} cannot be combined with mixing.mixup or mixing.cutmix: set them to "
            "0, and mixing.mix_token=True instead"
        )


# The teacher that is the model itself, without reduction.
DENSE = "dense"
