"""Registry of pretrained models by timm name."""

from __future__ import annotations

import fnmatch
from dataclasses import fields

from tcvit_jax.errors import invalid, out_of_range, unknown
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.models.lvvit import LVViT
from tcvit_jax.models.vit import ViT
from tcvit_jax.models.zoo_entries import GENERIC, ZOO, ZooEntry


def override_names(architecture: type[ViT]) -> tuple[str, ...]:
    """Return the names of the overrides that `create_model` accepts for an architecture."""
    internal = {"variant", "reducer", "removed", "parent", "name"}
    return tuple(field.name for field in fields(architecture) if field.name not in internal)


# Override names of all architectures.
OVERRIDE_NAMES = tuple(dict.fromkeys(key for architecture in (ViT, LVViT) for key in override_names(architecture)))


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Return the sorted model names that match a shell pattern.

    Args:
        pattern: Shell pattern, such as `"deit*"`. With a dot, it matches names with tags, such as `"*.dino"`.
        pretrained: Whether to list names with tags, one per set of pretrained weights.
    """
    has_tags = pretrained or "." in pattern
    return sorted({name for name in (ZOO if has_tags else _default_tags()) if fnmatch.fnmatchcase(name, pattern)})


def full_name(name: str) -> str:
    """Return a model name with its tag, such as `"deit_small_patch16_224.fb_in1k"` for `"deit_small_patch16_224"`.

    Raises:
        InputError: The name is unknown.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  (names are also read from files)
        raise out_of_range("model", name, "a name of tc.list_models()")
    if name in ZOO or name in GENERIC:
        return name
    full_names = _default_tags()
    if name not in full_names:
        raise unknown("model", name, list(ZOO) if "." in name else list(full_names))
    return full_names[name]


def repository(name: str) -> str:
    """Return the Hugging Face repository of a model's weights.

    Models with QuickGELU share the repository of the same model with GELU.
    """
    return "timm/" + full_name(name).replace("_quickgelu", "")


def name_from_repository(repo: str) -> str:
    """Return the name of the model whose weights a Hugging Face repository contains.

    Raises:
        InputError: The repository matches no registered model.
    """
    return next((name for name in ZOO if repository(name) == repo), None) or full_name(repo.removeprefix("timm/"))


def get_entry(name: str) -> ZooEntry:
    """Return the registry entry of a model name, with or without a tag, or of `"vit"` for a model of any size."""
    name = full_name(name)
    return GENERIC[name] if name in GENERIC else ZOO[name]


def is_generic(name: str) -> bool:
    """Return whether a name, such as `"vit"`, stands for no published weights."""
    return name in GENERIC


def preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of a model's pretrained weights.

    Raises:
        InputError: The name is unknown, or stands for no published weights.
    """
    entry = get_entry(name)
    if is_generic(name):
        raise invalid(f"model {name!r}", "no preprocessing, because it has no published weights")
    return entry.preprocessing


def _default_tags() -> dict[str, str]:
    """Return the full name for every name without a tag."""
    return {name.partition(".")[0]: name for name in reversed(ZOO)}
