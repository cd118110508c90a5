"""Configuration files, `FILE.py` or `FILE.py:RECIPE`, and `--config.KEY=VALUE` overrides.

A file defines `get_config()`, or `get_config(recipe="scratch")`, which changes what `default()` returns.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

from ml_collections import ConfigDict  # pyright: ignore[reportMissingTypeStubs]

from tcvit_jax.config.configuration import DEFAULTS, EXAMPLES, SECTION_OF_KEY, Config, apply_changes, flat
from tcvit_jax.config.model import REDUCER_PREFIX
from tcvit_jax.errors import InputError, unknown

# What an evaluation reads of the data, and what says how tokens are reduced.
EVALUATION = (
    "data.name", "data.dir", "data.eval_split", "data.workers", "data.mean", "data.std", "data.crop_pct",
    "data.interpolation", "data.crop_mode", "eval_batch_size",
)  # fmt: skip
REDUCTION = (REDUCER_PREFIX, "schedule", "gmacs", "schedule_family")


@dataclass(frozen=True)
class Scope:
    """The keys that a command reads.

    Attributes:
        reader: what reads them, for errors, such as `"a benchmark"`.
        keys: those keys, and prefixes that end in a dot.
    """

    reader: str
    keys: tuple[str, ...]

    def check(self, key: str) -> None:
        """Raise an `InputError` for a key that is not among them."""
        if not any(key.startswith(each) if each.endswith(".") else key == each for each in self.keys):
            raise InputError(f"cannot use --config.{key} with {self.reader}: it reads {', '.join(self.keys)}")


def default() -> ConfigDict:
    """Return every key with its default, for a file to change; the sections say what each of them means."""
    # `Config` checks types, in the words of the key.
    return ConfigDict(Config().to_mapping(), type_safe=False)


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    scope: Scope | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """Return the configuration that a file makes, with changes and overrides.

    Args:
        path: `FILE.py`, or `FILE.py:RECIPE`.
        overrides: such as `"--config.reducer.alpha=0.2"`; they come after `changes`.
        scope: the keys that `overrides` may change; None for all.
        changes: values by key, as for `Config.updated`.

    Raises:
        InputError: no such file or recipe, a file without `get_config`, an unknown key, a value of another type, or
            what `Config` raises.
    """
    file, recipe = _split(path)
    get_config = _get_config(file)
    values = flat(cast("Any", _call(get_config, file, recipe)).to_dict())
    if not values.get("workdir"):
        first = inspect.signature(get_config).parameters.get("recipe")
        is_default = first is None or recipe in (None, first.default)
        values["workdir"] = f"runs/{file.stem}" if is_default else f"runs/{file.stem}_{recipe}"
    # A file may be complete only with an override, so that both are checked together.
    return Config.from_values(_overridden(apply_changes({**DEFAULTS, **values}, changes), overrides, scope))


def override(config: Config, overrides: Sequence[str], scope: Scope | None = None) -> Config:
    """Return a configuration with `--config.KEY=VALUE` strings applied, as `Config.updated` does.

    Args:
        config: the configuration.
        overrides: the strings.
        scope: the keys that may change; None for all.

    Raises:
        InputError: an argument of another form, an unknown key (with the nearest), a value of another type, or what
            `Config` raises.
    """
    return Config.from_values(_overridden(config.values(), overrides, scope))


def read(path: str | Path, recipe: str | None = None) -> ConfigDict:
    """Return what a file makes; files that vary another one use it.

    Args:
        path: of the file.
        recipe: what `get_config` is given; None for nothing.

    Raises:
        InputError: no such file, a file without `get_config`, or a recipe for one whose `get_config` takes none.
    """
    return _call(_get_config(path), path, recipe)


def _get_config(path: str | Path) -> Callable[..., ConfigDict]:
    get_config = getattr(module(path), "get_config", None)
    if get_config is None:
        raise InputError(f"config file {str(path)!r} defines no get_config()")
    return get_config


def _call(get_config: Callable[..., ConfigDict], path: str | Path, recipe: str | None) -> ConfigDict:
    if recipe is None:
        return get_config()
    if "recipe" not in inspect.signature(get_config).parameters:
        raise InputError(f"config file {str(path)!r} has no recipes: leave out ':{recipe}'")
    return get_config(recipe=recipe)


def module(path: str | Path) -> ModuleType:
    """Return a file of configurations as a module, for what several of them share.

    Raises:
        InputError: no such file.
    """
    file = Path(path)
    if not file.is_file():
        others = sorted(str(other) for other in file.parent.glob("*.py")) if file.parent.is_dir() else []
        raise unknown("config file", str(path), others) if others else InputError(f"no config file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def _split(path: str | Path) -> tuple[Path, str | None]:
    """The file and the recipe of `FILE.py:RECIPE`."""
    file, colon, recipe = str(path).rpartition(".py:")
    return (Path(f"{file}.py"), recipe) if colon else (Path(path), None)


def _overridden(values: Mapping[str, Any], overrides: Sequence[str], scope: Scope | None) -> dict[str, Any]:
    """The values of all keys with overrides, each text read as the type that its key takes."""
    for argument in overrides:
        key, value = argument.removeprefix("--config.").partition("=")[::2]
        if not argument.startswith("--config.") or "=" not in argument:
            raise InputError(f"cannot use argument {argument!r}: overrides have the form --config.KEY=VALUE")
        if scope is not None and (key in SECTION_OF_KEY or key in values):
            scope.check(key)
        values = apply_changes(values, {key: _parse(value, EXAMPLES.get(key, values.get(key)))})
    return dict(values)


def _parse(text: str, example: Any) -> Any:
    """`text` as a value like `example`: a string, a number, a tuple, a truth value or None; text that is none stays."""
    if isinstance(example, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        return text
    return float(value) if isinstance(example, float) and type(value) is int else value
