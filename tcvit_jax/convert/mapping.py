"""Named tensors to a model's variables and back: every tensor and every variable exactly once, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from tcvit_jax.convert.formats import TIMM, Format, format_of
from tcvit_jax.convert.problems import Problem, listed, of_dtypes, of_names, of_shapes, of_unread, of_values
from tcvit_jax.errors import InputError, first_line
from tcvit_jax.models import ViT, variable_shapes
from tcvit_jax.ops.positions import resample_positions


@dataclass(frozen=True)
class Conversion:
    """Variables, and what was done with which tensors.

    Attributes:
        variables: `{"params": ...}`, and `"batch_stats"` where the model has any; float32 NumPy arrays.
        mapped: names that were taken as they are, but for their layout.
        resampled: names whose positions were resampled for the model's grid.
        replaced: names of a classifier that was left out; the model's own starts at zero.
        ignored: names that hold no weight.
        dtype: that of the tensors.
    """

    variables: dict[str, Any]
    mapped: tuple[str, ...]
    resampled: tuple[str, ...]
    replaced: tuple[str, ...]
    ignored: tuple[str, ...]
    dtype: str


def from_torch(
    state_dict: Mapping[str, Any], model: ViT, *, new_head: bool = False, grid: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The variables of `model` from named tensors: timm's names, those of LV-ViT's authors, or of AugReg's `.npz`.

    Args:
        state_dict: names to arrays: NumPy, torch, or anything `np.asarray` takes; of one floating-point dtype.
        model: from `create_model`, of the same sizes. Reducers have no parameters, so any of them fits. Where its
            `img_size` is another one, positions are resampled as timm does: bicubic with antialiasing, and those of
            AugReg's `.npz` bilinear without.
        new_head: leave out the classifiers of `state_dict`; those of `model`, of any number of classes, start at zero.
        grid: patches in height and width that `state_dict` has positions for; by default what its file says, or else
            a square.

    Returns:
        `{"params": ...}`, and `"batch_stats"` where the model has any; float32.

    Raises:
        InputError: names missing, names nobody reads, shapes that differ, dtypes that are mixed or not of numbers,
            values that are not finite: all of them, in one line.
    """
    return convert(state_dict, model, new_head=new_head, grid=grid).variables


def to_torch(variables: Mapping[str, Any], model: ViT) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: timm's names and layouts, float32, for `model`'s variables.

    Raises:
        InputError: they are another model's.
    """
    given: dict[str, Any] = traverse_util.flatten_dict(dict(variables), sep=".")
    expected: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    problems = [(path, "has no place in the model") for path in set(given) - set(expected)]
    problems += [(path, "is missing") for path in set(expected) - set(given)]
    for path in set(given) & set(expected):
        problems += of_shapes([path], [given[path].shape], [expected[path].shape])
    if problems:
        raise InputError(f"the variables do not fit {model.variant}: {listed(problems)}")
    tensors: dict[str, np.ndarray] = {}
    for path, value in given.items():
        entry = model.PARAMETERS.tensors(_table_path(path), TIMM.name)
        if entry is None or entry.layout.dump is None:
            problems.append((path, f"has no tensor in {TIMM.name} files"))
            continue
        (name,) = entry.names
        tensors[name] = np.ascontiguousarray(entry.layout.dump(np.asarray(value, np.float32)))
    if problems:
        raise InputError(f"cannot write {model.variant}: {listed(problems)}")
    return tensors


def convert(
    tensors: Mapping[str, Any], model: ViT, *, new_head: bool = False, grid: tuple[int, int] | None = None
) -> Conversion:
    """As `from_torch`, with an account of what was done."""
    grid = grid or getattr(tensors, "grid", None)
    table, file_format = model.PARAMETERS, format_of(tensors)
    names, problems = of_names(file_format.canonical_names(tensors))
    classifiers = table.classifier_tensors(file_format.name)
    dropped = classifiers & set(names) if new_head else frozenset[str]()
    unread, variables, resampled, dtypes = set(names) - dropped, {}, [], {}
    shapes: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    for path, expected in shapes.items():
        role = table.row(_table_path(path)).role
        entry = table.tensors(_table_path(path), file_format.name)
        if entry is None:
            problems.append((path, f"has no tensor in {file_format.name} files"))
            continue
        wanted = entry.names
        if role == "classifier" and new_head:
            variables[path] = np.zeros(expected.shape, np.float32)
            continue
        missing = [name for name in wanted if name not in unread]
        unread.difference_update(wanted)
        if missing:
            problems += [(name, "is missing") for name in missing]
            continue
        sources, wrong = _read(tensors, {name: names[name] for name in wanted})
        if not wrong:
            dtypes.update({name: source.dtype.name for name, source in zip(wanted, sources, strict=True)})
            if role == "positions":
                before = sources[0]
                sources[0], wrong = _regridded(wanted[0], before, model, grid, file_format)
                resampled += wanted if sources[0] is not before else []
            stored = entry.layout.shapes(expected.shape, model.num_heads)
            wrong = wrong or of_shapes(wanted, [source.shape for source in sources], stored)
        if not wrong:
            variables[path] = np.ascontiguousarray(entry.layout.load(sources, expected.shape), np.float32)
        problems += wrong
    problems += [*of_dtypes(dtypes), *of_unread(unread, problems)]
    if problems:
        advice = ""
        if all(name in classifiers for name, _ in problems):
            advice = "; another classifier replaces it with new_head (--new-head)"
        raise InputError(f"the weights do not fit {model.variant}: {listed(problems)}{advice}")
    return Conversion(
        variables=traverse_util.unflatten_dict(variables, sep="."),
        mapped=tuple(sorted(names[name] for name in set(names) - dropped - set(resampled))),
        resampled=tuple(names[name] for name in resampled),
        replaced=tuple(sorted(names[name] for name in dropped)),
        ignored=tuple(sorted(set(tensors) - set(names.values()))),
        dtype=next(iter(dtypes.values()), "float32"),
    )


def _table_path(path: str) -> str:
    """Return the path of a variable as parameter tables have it: `params/blocks_0/norm1/scale`."""
    return path.replace(".", "/")


def _read(tensors: Mapping[str, Any], names: Mapping[str, str]) -> tuple[list[np.ndarray], list[Problem]]:
    """The tensors that `names` are in the file, and what is wrong with them."""
    sources, problems = [], []
    for known, name in names.items():
        value = tensors[name]
        try:
            sources.append(_to_numpy(value))
        except Exception as error:  # sparse, quantized, of no storage: each has a kind of its own
            problems.append((known, f"cannot be read: {first_line(error)}"))
    return sources, problems or of_values(list(names), sources)


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # torch has no NumPy counterpart of bfloat16: its bits are read as JAX's.
        if str(value.dtype) == "torch.bfloat16":
            import torch
            from ml_dtypes import bfloat16

            return value.view(torch.int16).numpy().view(bfloat16)
        return value.numpy()
    return np.asarray(value)


def _regridded(
    name: str, positions: np.ndarray, model: ViT, grid: tuple[int, int] | None, file_format: Format
) -> tuple[np.ndarray, list[Problem]]:
    """Positions on the model's grid: themselves where they are of it, and where nothing can be resampled."""
    prefix = 0 if model.no_embed_class else model.prefix
    if positions.ndim != 3 or positions.shape[0] != 1 or positions.shape[2] != model.embed_dim:
        return positions, []
    count, (height, width) = positions.shape[1] - prefix, model.grid
    side = round(max(count, 0) ** 0.5)
    if grid is not None and grid[0] * grid[1] != count:
        return positions, [(name, f"has {count} positions, and a grid of {grid[0]}x{grid[1]} is said to be theirs")]
    if grid is None and count > 0 and side * side == count:
        if count == height * width and height != width:
            return positions, [(name, f"may be of {side}x{side} or of {height}x{width} patches: say which (--grid)")]
        grid = (side, side)
    if grid is None or grid == model.grid:
        return positions, []
    return np.asarray(resample_positions(positions, prefix, grid, model.grid, *file_format.resampling)), []
