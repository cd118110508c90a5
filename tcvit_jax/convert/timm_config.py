"""The configuration of a model in a repository of timm, `config.json` with `architecture`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tcvit_jax.errors import InputError, cannot_read, kind_of, unknown
from tcvit_jax.models import zoo
from tcvit_jax.models.image_preprocessing import CROP_MODES, INTERPOLATIONS, Preprocessing

# Arguments of timm's constructors without an effect on the outputs of a trained model at a fixed image size.
_IGNORED_ARGUMENTS = frozenset({
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
    "weight_init", "fix_init", "dynamic_img_size", "dynamic_img_pad", "strict_img_size",
})  # fmt: skip
# Types of an argument by that of its default, and of arguments whose default is None.
_TYPES: Mapping[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (float, int), str: (str,)}
_OPTIONAL_TYPES = {"fc_norm": (bool, type(None)), "init_values": (float, int, type(None))}
# Larger sizes fit in no memory.
MAX_NUMBER = 2**31
# Fields that are read, and fields without an effect on the outputs at `input_size`.
_READ = frozenset({
    "tag", "input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "num_classes", "label_offset",
})  # fmt: skip
_IGNORED = frozenset({
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "custom_load",
    "test_input_size", "min_input_size", "fixed_input_size", "test_crop_pct", "label_names", "label_descriptions",
    "pool_size", "first_conv", "classifier", "license", "description", "origin_url", "paper_name", "paper_ids", "notes",
})  # fmt: skip
_PRETRAINED = _READ | _IGNORED
# `num_features` and `global_pool` follow from the architecture and its arguments.
_ROOT = frozenset({
    "architecture", "num_classes", "num_features", "global_pool", "label_names", "label_descriptions", "labels",
    "model_args", "pretrained_cfg",
})  # fmt: skip
# Values of timm where a configuration has none.
_DEFAULTS: Mapping[str, Any] = {
    "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center", "mean": Preprocessing.mean,
    "std": Preprocessing.std,
}  # fmt: skip


def read_config(config: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any], Preprocessing, list[str] | None]:
    """Return the model that a configuration of timm describes.

    Args:
        config: Content of `config.json`, in the current form or in the former one without `pretrained_cfg`.
        path: Path of the file, for error messages.

    Returns:
        The name of the model, with a tag if the registry has it; overrides of `create_model`; the preprocessing; and
        the names of the classes, or None.

    Raises:
        InputError: The architecture is unknown, or a field cannot be honored. The message names it.
    """
    nested = config.get("pretrained_cfg", config)
    if not isinstance(nested, Mapping):
        raise cannot_read(path, f"pretrained_cfg: expected an object, got {kind_of(nested)}")
    pretrained = {key: value for key, value in cast("Mapping[str, Any]", nested).items() if value is not None}
    _check_names(config, _ROOT | _PRETRAINED, path)
    if "pretrained_cfg" in config:
        _check_names(pretrained, _PRETRAINED, path)
    name = _name(config["architecture"], pretrained.get("tag"), path)
    if pretrained.get("label_offset", 0) != 0:
        raise _error(path, "label_offset", pretrained["label_offset"], "0")
    overrides: dict[str, Any] = {}
    if "input_size" in pretrained:
        channels, height, width = _integers(path, "input_size", pretrained["input_size"], 3)
        overrides |= {"img_size": (height, width), "in_chans": channels}
    num_classes = config.get("num_classes", pretrained.get("num_classes"))
    if num_classes is not None:
        if not _is_integer(num_classes):
            raise _error(path, "num_classes", num_classes, "an integer >= 0")
        overrides["num_classes"] = num_classes
    overrides |= _arguments(name, config.get("model_args"), path)
    labels = _labels(config, overrides.get("num_classes"))
    return name, overrides, _preprocessing(pretrained, path), labels


def _check_names(values: Mapping[str, Any], names: frozenset[str], path: Path) -> None:
    """Raise an `InputError` for a field that is neither read nor without an effect."""
    for key, value in values.items():
        if value is not None and key not in names:
            raise cannot_read(path, str(unknown("field", key, names)))


def _name(architecture: object, tag: object, path: Path) -> str:
    """Return the name of an architecture, with its tag if the registry has that."""
    full_name = f"{architecture}.{tag}"
    if isinstance(tag, str) and full_name in zoo.ZOO:
        return full_name
    try:
        zoo.full_name(cast("str", architecture))
    except InputError as error:
        raise cannot_read(path, f"architecture: {error}") from error
    return cast("str", architecture)


def _arguments(name: str, values: object, path: Path) -> dict[str, Any]:
    """Return the overrides for the arguments of timm's constructor."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise cannot_read(path, f"model_args: expected an object, got {kind_of(values)}")
    architecture = zoo.get_entry(name).architecture
    options = zoo.override_names(architecture)
    arguments: dict[str, Any] = {}
    for key, value in cast("Mapping[str, Any]", values).items():
        if key in _IGNORED_ARGUMENTS:
            continue
        if key not in options:
            raise cannot_read(path, f"model_args: {unknown('argument', key, options)}")
        if key == "img_size":
            if not isinstance(value, list) and not _is_integer(value):
                raise _error(path, "model_args.img_size", value, "an integer >= 0, or 2 integers")
            sides: object = cast("list[Any]", value) if isinstance(value, list) else [value, value]
            arguments[key] = _integers(path, "model_args.img_size", sides, 2)
            continue
        kinds = _OPTIONAL_TYPES[key] if key in _OPTIONAL_TYPES else _TYPES[type(getattr(architecture, key))]
        # In Python, a bool is an integer.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if type(value) not in kinds or (is_number and not abs(value) <= MAX_NUMBER):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise _error(path, f"model_args.{key}", value, f"of type {names}")
        arguments[key] = value
    return arguments


def _preprocessing(values: Mapping[str, Any], path: Path) -> Preprocessing:
    values = {key: values.get(key, default) for key, default in _DEFAULTS.items()}
    for key, options in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
        if values[key] not in options:
            raise _error(path, key, values[key], " or ".join(map(repr, options)))
    try:
        return Preprocessing(**values)
    except InputError as error:
        raise cannot_read(path, str(error)) from error


def _labels(config: Mapping[str, Any], num_classes: int | None) -> list[str] | None:
    """Return the names of the classes if there is one for each."""
    names: Any = config.get("label_names", config.get("labels"))
    if isinstance(names, list) and all(isinstance(name, str) for name in cast("list[Any]", names)):
        labels = cast("list[str]", names)
        return labels if num_classes is None or len(labels) == num_classes else None
    return None


def _integers(path: Path, key: str, values: object, count: int) -> tuple[int, ...]:
    items = cast("list[Any]", values) if isinstance(values, list) else []
    if len(items) != count or not all(map(_is_integer, items)):
        raise _error(path, key, values, f"{count} integers")
    return tuple(items)


def _is_integer(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_NUMBER


def _error(path: Path, name: str, value: object, condition: str) -> InputError:
    return cannot_read(path, f"{name}={value!r}: must be {condition}")
