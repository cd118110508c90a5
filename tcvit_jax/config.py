"""Configurations: every key with its default, files that change some of them, and `--config.key=value` overrides."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from tcvit_jax import reducers
from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models import LVViT, ViT
from tcvit_jax.models.zoo import OVERRIDES, Preprocessing

# A `ConfigDict`, whose values are of many types by name: to a type checker that is anything.
Config: TypeAlias = Any


# What may be otherwise when a run is continued: where it is, and what machines it has. But for rounding, the course of
# the training does not depend on them.
OF_MACHINES = (
    "workdir", "mesh.data", "mesh.model", "data.dir", "data.workers", "accumulate", "eval_batch_size",
    "checkpoint_every",
)  # fmt: skip
# Overrides that say what is evaluated, and nothing of the model.
OF_DATA = ("--config.data.", "--config.eval_batch_size=")


def default() -> Config:
    """Every key there is. `None` means: as the model's name says."""
    return ConfigDict(
        {
            "workdir": "",  # where the run is kept; "" is runs/<name of the config file>
            "seed": 0,
            "model": {"name": "deit_small_patch16_224", **dict.fromkeys(OVERRIDES)},
            "reducer": {"name": "none"},
            "schedule": 0,  # patch tokens that leave every block, or a list with one number for each
            "gmacs": 0.0,  # instead of a schedule: the budget, in 1e9 multiply-adds; 0 is none
            "shape": "constant",  # of a budget's schedule: "keep_rate", "stages", or the method's own ("method")
            "weights": "",  # to start from: a file, hf-hub:timm/NAME or a checkpoint; "" starts from scratch
            "new_head": False,  # leave out the classifier of `weights`, for one of other classes
            "data": {
                "name": "imagenet2012",  # "digits", "folder", "tfrecord", or a TFDS name
                "dir": "",  # of the folder, the TFRecord files, or TFDS's prepared sets
                "train_split": "train",
                "eval_split": "val",
                "augmentation": "crop",  # or "shift"
                "shift": 1,  # pixels, of "shift"
                "auto_augment": "",  # timm's name of a RandAugment, such as "rand-m9-mstd0.5-inc1"
                "color_jitter": 0.0,  # the most that brightness, contrast and saturation change by
                "train_interpolation": "",  # "random", or another one than in evaluation
                "repeats": 1,  # rows that each image fills, with an augmentation for each
                "label_maps": "",  # LV-ViT's token labels: a folder with CLASS/NAME.npy for every training image
                "workers": 0,  # decoding processes; 0 decodes in this one
                "mean": None,
                "std": None,
                "crop_pct": None,
                "interpolation": None,
                "crop_mode": None,
            },
            "batch_size": 1024,  # over all devices
            "eval_batch_size": 1024,
            "epochs": 300.0,
            "accumulate": 1,  # micro-batches of a device that make one step
            "label_smoothing": 0.1,
            "mixing": {
                "mixup": 0.0,  # alpha of the Beta distribution; 0 is off
                "cutmix": 0.0,
                "prob": 1.0,  # that a batch is mixed
                "switch_prob": 0.5,  # that it is by CutMix, where both are on
                "mix_token": False,  # patches instead of pixels (LV-ViT)
            },
            "random_erasing": 0.0,  # the probability of it
            "token_labels": 0.0,  # the weight of the loss of every patch token, of a model with a head for them
            "distill": {
                "teacher": "",  # a checkpoint, or "dense": this model without reduction, with `weights`; "" is none
                "kind": "soft",  # or "hard"
                "weight": 0.5,  # of the teacher's word; labels have the rest
                "temperature": 1.0,  # of "soft"
                "tokens": 0.0,  # the weight of the difference of restored patches from the teacher's
            },
            "warmdown": {  # from no reduction to all of it, over the first epochs of a run
                "start_epoch": 0.0,  # until then nothing is removed
                "epochs": 0.0,  # how long it takes; 0 is off
                "stages": 8,  # of different schedules, each of which is compiled
            },
            "optimizer": {
                "lr": 1e-3,  # peak
                "lr_batch_size": 0,  # images a step that `lr` is meant for, and scaled from; 0: as it is
                "min_lr": 1e-5,
                "warmup_lr": 0.0,  # at the first step
                "warmup_epochs": 5.0,
                "warmup_prefix": True,  # the cosine begins behind the warm-up, or at the first step
                "weight_decay": 0.05,
                "b1": 0.9,
                "b2": 0.999,
                "clip_norm": 0.0,  # 0 is off
                "layer_decay": 1.0,  # of the learning rate, for each layer below the head
                "ema_decay": 0.9999,
            },
            "mesh": {
                "data": 0,  # devices that the batch alone is cut over; 0 for all that are left
                "model": 1,  # devices that share the parameters (FSDP); 1: each has them all
            },
            "log_every": 50,  # steps
            "eval_every": 1.0,  # epochs
            "checkpoint_every": 1000,  # steps
        },
        type_safe=False,  # `load` checks, in the words of the key
    )


# What a value that is None by default looks like when it is given.
_EXAMPLES = {
    **{f"model.{f.name}": f.default for kind in (LVViT, ViT) for f in fields(kind) if f.name in OVERRIDES},
    "model.fc_norm": True,
    "model.init_values": 1e-5,
    **{f"data.{f.name}": f.default for f in fields(Preprocessing)},
    "reducer.match_order": 2,
}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration that `path` makes, with `--config.key=value` overrides.

    Args:
        path: a Python file with `get_config()`.
        overrides: such as `"--config.reducer.alpha=0.2"`.

    Raises:
        InputError: no such file, a file without `get_config`, an unknown key, a value of another kind.
    """
    config = read(path)
    config.workdir = config.workdir or f"runs/{Path(path).stem}"
    known = dict(_flat(default()))
    for key, value in _flat(config):
        # Which fields a reducer has is for the reducer to say.
        if not key.startswith("reducer."):
            if key not in known:
                raise unknown("config key", key, known)
            _check_kind(key, value, known[key])
    return override(config, overrides)


def read(path: str | Path) -> Config:
    """What `get_config()` of the file returns; a configuration that varies another one reads it so."""
    found = module(path)
    if not hasattr(found, "get_config"):
        raise InputError(f"config file {str(path)!r} defines no get_config()")
    return found.get_config()


def module(path: str | Path) -> Any:
    """A file of configurations as a module, for what several of them share.

    Raises:
        InputError: no such file.
    """
    file = Path(path)
    if not file.is_file():
        others = sorted(str(other) for other in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise unknown("config file", str(path), others) if others else InputError(f"no config file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def restored(values: Mapping[str, Any]) -> Config:
    """The configuration that a checkpoint holds as plain values; keys that it was saved without have their defaults."""
    base = default().to_dict()
    given = {
        key: {**base[key], **value} if isinstance(base.get(key), dict) and key != "reducer" else value
        for key, value in values.items()
    }
    return ConfigDict({**base, **given})


def override(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with `--config.key=value` strings applied, each value of the kind that it replaces.

    Raises:
        InputError: an argument of another form, an unknown key (with the nearest), a value of another kind.
    """
    config = ConfigDict(config.to_dict(), type_safe=False)
    for argument in overrides:
        name, equals, text = argument.partition("=")
        if not name.startswith("--config.") or not equals:
            raise InputError(f"cannot use argument {argument!r}: overrides have the form --config.key=value")
        key, keys = name.removeprefix("--config."), dict(_flat(config))
        if key not in keys:
            raise unknown("config key", key, keys)
        if key == "reducer.name":
            # Another method has other fields: they start from its defaults.
            config.reducer = reducers.to_config(reducers.from_config({"name": text}))
            continue
        if key == "schedule":
            # One of the two decides, and the later word is meant; a budget goes before by itself.
            config.gmacs = 0.0
        *path, last = key.split(".")
        section = config
        for part in path:
            section = section[part]
        section[last] = _parse(key, text, keys[key])
    return config


def _flat(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _parse(key: str, text: str, old: Any) -> Any:
    """`text` as a value of the kind of `old`."""
    if isinstance(_EXAMPLES.get(key, old), str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    _check_kind(key, value, old)
    return float(value) if isinstance(old, float) and isinstance(value, int) else value


def _check_kind(key: str, value: Any, old: Any) -> None:
    """Raise unless `value` is of the kind that the key takes."""
    example = _EXAMPLES.get(key, old)
    if value is None and key in _EXAMPLES:
        return
    if isinstance(example, bool) or isinstance(value, bool):
        fits = isinstance(example, bool) and isinstance(value, bool)
    elif key in ("schedule", "model.img_size"):
        fits = isinstance(value, int | tuple | list)
    elif key == "reducer.pruned":
        fits = isinstance(value, int | float | tuple | list)
    elif isinstance(example, tuple):
        fits = isinstance(value, tuple | list) and all(isinstance(part, int | float) for part in value)
    elif isinstance(example, float):
        fits = isinstance(value, int | float)
    else:
        fits = isinstance(value, type(example))
    if not fits:
        raise InputError(f"config key {key!r} takes {type(example).__name__}, such as {example!r}, not {value!r}")
