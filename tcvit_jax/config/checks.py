"""Sections checked against each other, and that no key is set without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tcvit_jax.errors import InputError
from tcvit_jax.reducers import Reducer

Values = Mapping[str, Any]


class Needs(NamedTuple):
    """When a key has an effect: the words for it, and the test on the values of all keys."""

    words: str
    holds: Callable[[Values], bool]


def _reduces(values: Values) -> bool:
    return bool(values["gmacs"]) or _removes(values)


def _removes(values: Values) -> bool:
    schedule = values["schedule"]
    return any(schedule) if isinstance(schedule, tuple) else schedule != 0


def _labels_count(values: Values) -> bool:
    return not (values["distill.teacher"] and values["distill.weight"] == 1) or values["token_labels"] > 0


_TEACHER = Needs("distill.teacher", lambda values: values["distill.teacher"] != "")
_DISTILLS = Needs(
    "distill.teacher and distill.weight > 0",
    lambda values: values["distill.teacher"] != "" and values["distill.weight"] > 0,
)
_WARMUP = Needs("optimizer.warmup_epochs > 0", lambda values: values["optimizer.warmup_epochs"] > 0)
_WARMDOWN = Needs("warmdown.epochs > 0", lambda values: values["warmdown.epochs"] > 0)
_REDUCER = Needs("reducer.name", lambda values: values["reducer.name"] != "none")
_REDUCER_ALONE = Needs(
    "reducer.name, and no gmacs", lambda values: values["reducer.name"] != "none" and not values["gmacs"]
)
_REMOVAL = Needs("schedule or gmacs", lambda values: values["reducer.name"] == "none" or _reduces(values))
_ALWAYS = Needs("", lambda values: True)

# What every key needs to have an effect. A new key is added here too: a test compares this table with the sections.
NEEDS: Mapping[str, Needs] = {
    **dict.fromkeys(("workdir", "seed", "batch_size", "eval_batch_size", "epochs", "accumulate"), _ALWAYS),
    **dict.fromkeys(("log_every", "eval_every", "checkpoint_every", "mesh.data", "mesh.model", "weights"), _ALWAYS),
    "new_head": Needs("weights", lambda values: values["weights"] != ""),
    "reducer.name": _REMOVAL,
    "schedule": _REDUCER_ALONE,
    "gmacs": _REDUCER,
    "shape": Needs("gmacs > 0", lambda values: values["gmacs"] > 0),
    "warmdown.epochs": Needs("a reducer and a schedule", _reduces),
    "warmdown.start_epoch": _WARMDOWN,
    "warmdown.stages": _WARMDOWN,
    **dict.fromkeys(("data.name", "data.train_split", "data.eval_split", "data.augmentation"), _ALWAYS),
    "data.dir": Needs("another data.name than 'digits'", lambda values: values["data.name"] != "digits"),
    "data.shift": Needs("data.augmentation='shift'", lambda values: values["data.augmentation"] == "shift"),
    **dict.fromkeys(("data.auto_augment", "data.color_jitter", "data.train_interpolation", "data.repeats"), _ALWAYS),
    "data.label_maps": Needs("token_labels > 0", lambda values: values["token_labels"] > 0),
    **dict.fromkeys(("data.workers", "data.mean", "data.std", "data.crop_pct", "data.interpolation"), _ALWAYS),
    "data.crop_mode": _ALWAYS,
    "label_smoothing": Needs("distill.weight < 1", _labels_count),
    **dict.fromkeys(("mixing.mixup", "mixing.cutmix", "mixing.mix_token", "random_erasing", "token_labels"), _ALWAYS),
    "mixing.prob": Needs(
        "mixing.mixup or mixing.cutmix", lambda values: values["mixing.mixup"] > 0 or values["mixing.cutmix"] > 0
    ),
    "mixing.switch_prob": Needs(
        "both mixing.mixup and mixing.cutmix",
        lambda values: values["mixing.mixup"] > 0 and values["mixing.cutmix"] > 0,
    ),
    "distill.teacher": _ALWAYS,
    "distill.weight": _TEACHER,
    "distill.tokens": _TEACHER,
    "distill.kind": _DISTILLS,
    "distill.temperature": Needs(
        "distill.teacher, distill.weight > 0 and distill.kind='soft'",
        lambda values: _DISTILLS.holds(values) and values["distill.kind"] == "soft",
    ),
    **dict.fromkeys(("optimizer.lr", "optimizer.lr_batch_size", "optimizer.min_lr"), _ALWAYS),
    **dict.fromkeys(("optimizer.warmup_epochs", "optimizer.weight_decay", "optimizer.b1", "optimizer.b2"), _ALWAYS),
    **dict.fromkeys(("optimizer.clip_norm", "optimizer.layer_decay", "optimizer.ema_decay"), _ALWAYS),
    "optimizer.warmup_lr": _WARMUP,
    "optimizer.warmup_prefix": _WARMUP,
}


def unread(values: Values, defaults: Values, reducer: Reducer | None) -> Iterator[tuple[str, str]]:
    """Yield every key that is set and has no effect, with what it needs.

    Args:
        values: of every key.
        defaults: of every key but the reducer's fields; a key is set where its value is another one.
        reducer: the method, whose own fields may need each other.
    """
    for key, needs in NEEDS.items():
        if values[key] != defaults[key] and not needs.holds(values):
            yield key, needs.words
    for name, words in reducer.unread_fields().items() if reducer else ():
        if getattr(reducer, name) != type(reducer).__dataclass_fields__[name].default:
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
