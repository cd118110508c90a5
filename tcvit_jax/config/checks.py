"""Sections checked against each other, and that no key is set without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tcvit_jax.errors import InputError
from tcvit_jax.reducers import Reducer

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Needs:
    """A condition for a key to have an effect: the words for it, and the test on the values of all keys."""

    words: str
    holds: Callable[[Values], bool]


def _reduces(values: Values) -> bool:
    return bool(np.any(values["schedule"])) or values["gmacs"] > 0


_REDUCER = Needs("reducer.name", lambda values: values["reducer.name"] != "none")
_REMOVAL = Needs("schedule or gmacs", _reduces)
_TEACHER = Needs("distill.teacher", lambda values: values["distill.teacher"] != "")
_DISTILLED = Needs("distill.weight > 0", lambda values: values["distill.weight"] > 0)
_SOFT = Needs("distill.kind='soft'", lambda values: values["distill.kind"] == "soft")
_WARMUP = Needs("optimizer.warmup_epochs > 0", lambda values: values["optimizer.warmup_epochs"] > 0)
_WARMDOWN = Needs("warmdown.epochs > 0", lambda values: values["warmdown.epochs"] > 0)
_MIXED = Needs(
    "mixing.mixup or mixing.cutmix", lambda values: values["mixing.mixup"] > 0 or values["mixing.cutmix"] > 0
)
_SWITCHED = Needs(
    "both mixing.mixup and mixing.cutmix", lambda values: values["mixing.mixup"] > 0 and values["mixing.cutmix"] > 0
)
_LABELED = Needs(
    "distill.weight < 1 or token_labels > 0",
    lambda values: values["distill.teacher"] == "" or values["distill.weight"] < 1 or values["token_labels"] > 0,
)

# What every key needs to have an effect, but for `model.*`: `create_model` refuses what an architecture does not have.
# A new key is added here too: a test compares this table with the sections.
NEEDS: Mapping[str, tuple[Needs, ...]] = {
    **dict.fromkeys(("workdir", "seed", "batch_size", "eval_batch_size", "epochs", "accumulate"), ()),
    **dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), ()),
    "weights": (),
    "new_head": (Needs("weights", lambda values: values["weights"] != ""),),
    "reducer.name": (_REMOVAL,),
    "schedule": (_REDUCER, Needs("gmacs=0", lambda values: values["gmacs"] == 0)),
    "gmacs": (_REDUCER,),
    "shape": (Needs("gmacs > 0", lambda values: values["gmacs"] > 0),),
    "warmdown.epochs": (_REDUCER, _REMOVAL),
    "warmdown.start_epoch": (_WARMDOWN,),
    "warmdown.stages": (_WARMDOWN,),
    **dict.fromkeys(("data.name", "data.train_split", "data.eval_split", "data.workers"), ()),
    "data.dir": (Needs("another data.name than 'digits'", lambda values: values["data.name"] != "digits"),),
    "data.augmentation": (),
    "data.shift": (Needs("data.augmentation='shift'", lambda values: values["data.augmentation"] == "shift"),),
    **dict.fromkeys(("data.auto_augment", "data.color_jitter", "data.train_interpolation", "data.repeats"), ()),
    "data.label_maps": (Needs("token_labels > 0", lambda values: values["token_labels"] > 0),),
    **dict.fromkeys(("data.mean", "data.std", "data.crop_pct", "data.interpolation", "data.crop_mode"), ()),
    **dict.fromkeys(("mixing.mixup", "mixing.cutmix", "mixing.mix_token", "random_erasing", "token_labels"), ()),
    "mixing.prob": (_MIXED,),
    "mixing.switch_prob": (_SWITCHED,),
    "label_smoothing": (_LABELED,),
    "distill.teacher": (),
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
    for key, needs in NEEDS.items():
        unmet = [need.words for need in needs if not need.holds(values)]
        if unmet and values[key] != defaults[key]:
            yield key, unmet[0]
    if reducer is not None:
        defaults = {each.name: each.default for each in fields(reducer)}
        for name, words in reducer.unread_fields().items():
            if getattr(reducer, name) != defaults[name]:
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
