"""Configuration files, `FILE.py` or `FILE.py:RECIPE`, and `--config.KEY=VALUE` overrides.

A file defines `get_config()` or `get_config(recipe="scratch")`, which returns `default()` with some values changed.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

from ml_collections import ConfigDict  # pyright: ignore[reportMissingTypeStubs]

from tcvit_jax.config.configuration import (
    DEFAULTS,
    EXAMPLES,
    PATH_KEYS,
    SECTION_OF_KEY,
    Config,
    apply_changes,
    flatten,
)
from tcvit_jax.config.model import REDUCER_PREFIX
from tcvit_jax.errors import cannot_read, conflicts, invalid, unknown
from tcvit_jax.files import expand

# The keys that an evaluation uses, and the keys that define the reduction.
EVALUATION_KEYS = (
    "data.name", "data.dir", "data.eval_split", "data.workers", "data.verify", "data.mean", "data.std", "data.crop_pct",
    "data.interpolation", "data.crop_mode", "data.resize", "data.crop_rounding", "eval_batch_size",
)  # fmt: skip
REDUCTION_KEYS = (REDUCER_PREFIX, "schedule", "gmacs", "schedule_family")
# Where a wheel installs `configs/`.
INSTALLED = Path(sysconfig.get_path("data"), "share", "tcvit_jax")


@dataclass(frozen=True)
class Scope:
    """The keys that a command uses, which are those that a user may override.

    Attributes:
        command: The command, for errors, such as `"eval.py --checkpoint"`.
        keys: The keys; one that ends with a dot is a prefix.
    """

    command: str
    keys: tuple[str, ...]

    def check(self, key: str) -> None:
        """Raise an `InputError` for a key that the command does not use."""
        if not any(key.startswith(each) if each.endswith(".") else key == each for each in self.keys):
            keys = ", ".join(f"{each}*" if each.endswith(".") else each for each in self.keys)
            raise conflicts(f"--config.{key}", self.command, f"it uses {keys}")


def default() -> ConfigDict:
    """Return the default of every key, for `get_config` to change; the sections document the keys."""
    # `Config` checks types, with error messages that name the key.
    return ConfigDict(Config().to_mapping(), type_safe=False)


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    scope: Scope | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """Load a configuration from a file.

    Args:
        path: `FILE.py`, or `FILE.py:RECIPE`.
        overrides: Strings such as `"--config.reducer.alpha=0.2"`, applied after `changes`.
        scope: The keys that `overrides` may change; None for all.
        changes: Values by key, as for `Config.updated`.

    Returns:
        The configuration. If the file sets no `workdir`, it is `runs/FILE` or `runs/FILE_RECIPE`.

    Raises:
        InputError: The file or the recipe is not found, `get_config` is missing, a key is unknown or outside `scope`,
            a value is invalid, or sections are inconsistent.
    """
    file, recipe = _split(path)
    get_config = _get_config(file)
    values = flatten(cast("Any", _call(get_config, file, recipe)).to_dict())
    if not values.get("workdir"):
        first = inspect.signature(get_config).parameters.get("recipe")
        is_default = first is None or recipe in (None, first.default)
        values["workdir"] = f"runs/{file.stem}" if is_default else f"runs/{file.stem}_{recipe}"
    values = _overridden(apply_changes({**DEFAULTS, **values}, changes), overrides, scope)
    # A file may be valid only together with an override, so both are checked and expanded at once.
    return Config.from_values(_expanded(values, PATH_KEYS))


def override(config: Config, overrides: Sequence[str], scope: Scope | None = None) -> Config:
    """Apply `--config.KEY=VALUE` strings to a configuration, as `Config.updated` does.

    Args:
        config: The configuration.
        overrides: The strings.
        scope: The keys that may change; None for all.

    Returns:
        The new configuration.

    Raises:
        InputError: A string has another form, a key is unknown or outside `scope`, a value is invalid, or sections
            are inconsistent.
    """
    keys = {_split_override(argument)[0] for argument in overrides}
    return Config.from_values(_expanded(_overridden(config.values(), overrides, scope), PATH_KEYS & keys))


def read(path: str | Path, recipe: str | None = None) -> ConfigDict:
    """Return the `ConfigDict` of a file, for files that build on another one.

    Args:
        path: The file.
        recipe: The argument of `get_config`; None for its default.

    Returns:
        The value of `get_config`.

    Raises:
        InputError: The file is not found, or has no `get_config`, or `get_config` has no argument `recipe`.
    """
    return _call(_get_config(path), path, recipe)


def _get_config(path: str | Path) -> Callable[..., ConfigDict]:
    get_config = getattr(load_module(path), "get_config", None)
    if get_config is None:
        raise cannot_read(path, "get_config() not found", "a config file must define it")
    return get_config


def _call(get_config: Callable[..., ConfigDict], path: str | Path, recipe: str | None) -> ConfigDict:
    if recipe is None:
        return get_config()
    if "recipe" not in inspect.signature(get_config).parameters:
        raise cannot_read(path, f"recipe {recipe!r} not found", f"the file has no recipes, omit ':{recipe}'")
    return get_config(recipe=recipe)


def load_module(path: str | Path) -> ModuleType:
    """Import a configuration file as a module, for definitions that several files share.

    Args:
        path: The file. A relative path that does not exist is looked up among the files of the installed package,
            such as `configs/digits_gtp.py`.

    Returns:
        The module, which is not added to `sys.modules`.

    Raises:
        InputError: The file is not found.
    """
    candidates = (Path(path), INSTALLED / path)
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        directories = [candidate.parent for candidate in candidates if candidate.parent.is_dir()]
        others = {str(Path(path).parent / other.name) for each in directories for other in each.glob("*.py")}
        raise unknown("config file", str(path), others) if others else cannot_read(path, "config file not found")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _split(path: str | Path) -> tuple[Path, str | None]:
    """Split `FILE.py:RECIPE` into the file and the recipe."""
    file, colon, recipe = str(path).rpartition(".py:")
    return (Path(f"{file}.py"), recipe) if colon else (Path(path), None)


def _overridden(values: Mapping[str, Any], overrides: Sequence[str], scope: Scope | None) -> dict[str, Any]:
    """Apply override strings to the values of all keys, and parse each as the type of its key."""
    for argument in overrides:
        key, value = _split_override(argument)
        if scope is not None and (key in SECTION_OF_KEY or key in values):
            scope.check(key)
        values = apply_changes(values, {key: _parse(value, EXAMPLES.get(key, values.get(key)))})
    return dict(values)


def _split_override(argument: str) -> tuple[str, str]:
    """Split `--config.KEY=VALUE` into the key and the value."""
    key, equals, value = argument.removeprefix("--config.").partition("=")
    if not (argument.startswith("--config.") and equals):
        raise invalid(argument, "expected an override of the form --config.KEY=VALUE")
    return key, value


def _expanded(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Expand `~` and environment variables in the paths of some keys; `Config` checks the types of the others."""
    paths = {key: expand(values[key], key) for key in sorted(keys) if isinstance(values.get(key), str)}
    return {**values, **paths}


def _parse(text: str, example: Any) -> Any:
    """Parse `text` as a value of the type of `example`; text that is not a Python literal remains a string."""
    if isinstance(example, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        return text
    return float(value) if isinstance(example, float) and type(value) is int else value
