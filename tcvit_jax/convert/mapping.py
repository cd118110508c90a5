"""Conversion between named tensors and variables. Every tensor and every variable is used exactly once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from tcvit_jax.convert.formats import TIMM, Format, format_of
from tcvit_jax.convert.problems import (
    NOT_FOUND,
    Problem,
    check_dtypes,
    check_shapes,
    check_unexpected,
    check_values,
    map_names,
    summarize,
)
from tcvit_jax.errors import first_line, invalid
from tcvit_jax.models import ViT, variable_shapes
from tcvit_jax.ops.positions import resample_positions


@dataclass(frozen=True)
class Conversion:
    """Converted variables, and how each tensor was used.

    Attributes:
        variables: `{"params": ...}` and, if the model has any, `"batch_stats"`; float32 NumPy arrays.
        mapped: Names of tensors that were converted without resampling.
        resampled: Names of position embeddings that were resampled to the grid of the model.
        replaced: Names of classifier tensors that were discarded; the new classifier is zero.
        ignored: Names of tensors that are not weights.
        dtype: Dtype of the tensors.
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
    """Convert named tensors of timm, the official LV-ViT code or AugReg `.npz` files to the variables of a model.

    Args:
        state_dict: Tensors by name: NumPy, torch, or anything that `np.asarray` accepts, of one floating-point dtype.
        model: Model of `create_model` with matching sizes. Its reducer has no parameters and may be any. For another
            `img_size`, position embeddings are resampled as in timm: bicubic with antialiasing, or bilinear without
            antialiasing for AugReg `.npz` files.
        new_head: Whether to discard the classifiers of `state_dict`. Those of `model`, with any number of classes, are
            then zero.
        grid: Patch grid `(height, width)` of the position embeddings in `state_dict`. By default the grid that the file
            records, or else a square.

    Returns:
        `{"params": ...}` and, if the model has any, `"batch_stats"`; float32.

    Raises:
        InputError: Names are missing, unexpected or duplicate, shapes or dtypes do not match, or values are not finite.
            The message lists all problems in one line.
    """
    return convert(state_dict, model, new_head=new_head, grid=grid).variables


def to_torch(variables: Mapping[str, Any], model: ViT) -> dict[str, np.ndarray]:
    """Convert the variables of a model to float32 tensors with timm's names and layouts. Inverse of `from_torch`.

    Raises:
        InputError: The variables do not match the model, or timm's format cannot store one of them.
    """
    arrays: dict[str, Any] = traverse_util.flatten_dict(dict(variables), sep=".")
    expected: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    problems = [(path, "unexpected") for path in set(arrays) - set(expected)]
    problems += [(path, NOT_FOUND) for path in set(expected) - set(arrays)]
    for path in set(arrays) & set(expected):
        problems += check_shapes([path], [arrays[path].shape], [expected[path].shape])
    if problems:
        raise invalid(f"variables of {model.variant}", summarize(problems))
    tensors: dict[str, np.ndarray] = {}
    for path, value in arrays.items():
        entry = model.PARAMETERS.tensors(_table_path(path), TIMM.name)
        if entry is None or entry.layout.dump is None:
            problems.append((path, f"cannot be stored in {TIMM.name} files"))
            continue
        (name,) = entry.names
        tensors[name] = np.ascontiguousarray(entry.layout.dump(np.asarray(value, np.float32)))
    if problems:
        raise invalid(f"variables of {model.variant}", summarize(problems))
    return tensors


def convert(
    tensors: Mapping[str, Any], model: ViT, *, new_head: bool = False, grid: tuple[int, int] | None = None
) -> Conversion:
    """Convert named tensors as `from_torch` does, and also return how each tensor was used.

    Args:
        tensors: Tensors by name.
        model: Model of `create_model`.
        new_head: Whether to discard the classifiers.
        grid: Patch grid of the position embeddings.

    Raises:
        InputError: The tensors do not match the model, as for `from_torch`.
    """
    grid = grid or getattr(tensors, "grid", None)
    table, file_format = model.PARAMETERS, format_of(tensors)
    names, problems = map_names(file_format.canonical_names(tensors))
    classifiers = table.classifier_tensors(file_format.name)
    dropped = classifiers & set(names) if new_head else frozenset[str]()
    remaining, variables, resampled, dtypes = set(names) - dropped, {}, [], {}
    shapes: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    for path, expected in shapes.items():
        role = table.row(_table_path(path)).role
        entry = table.tensors(_table_path(path), file_format.name)
        if entry is None:
            problems.append((path, f"cannot be stored in {file_format.name} files"))
            continue
        if role == "classifier" and new_head:
            variables[path] = np.zeros(expected.shape, np.float32)
            continue
        missing = [name for name in entry.names if name not in remaining]
        remaining.difference_update(entry.names)
        if missing:
            problems += [(name, NOT_FOUND) for name in missing]
            continue
        sources, errors = _read(tensors, {name: names[name] for name in entry.names})
        if not errors:
            dtypes.update({name: source.dtype.name for name, source in zip(entry.names, sources, strict=True)})
            if role == "positions":
                original = sources[0]
                sources[0], errors = _fit_positions(entry.names[0], original, model, grid, file_format)
                resampled += entry.names if sources[0] is not original else []
            tensor_shapes = entry.layout.shapes(expected.shape, model.num_heads)
            errors = errors or check_shapes(entry.names, [source.shape for source in sources], tensor_shapes)
        if not errors:
            variables[path] = np.ascontiguousarray(entry.layout.load(sources, expected.shape), np.float32)
        problems += errors
    problems += [*check_dtypes(dtypes), *check_unexpected(remaining, problems)]
    if problems:
        is_classifier_only = all(name in classifiers for name, _ in problems)
        hint = "use new_head=True (--new-head) for a new classifier" if is_classifier_only else ""
        raise invalid(f"weights for {model.variant}", summarize(problems), hint)
    return Conversion(
        variables=traverse_util.unflatten_dict(variables, sep="."),
        mapped=tuple(sorted(names[name] for name in set(names) - dropped - set(resampled))),
        resampled=tuple(names[name] for name in resampled),
        replaced=tuple(sorted(names[name] for name in dropped)),
        ignored=tuple(sorted(set(tensors) - set(names.values()))),
        dtype=next(iter(dtypes.values()), "float32"),
    )


def _table_path(path: str) -> str:
    """Return the path of a variable as in the parameter tables, such as `params/blocks_0/norm1/scale`."""
    return path.replace(".", "/")


def _read(tensors: Mapping[str, Any], names: Mapping[str, str]) -> tuple[list[np.ndarray], list[Problem]]:
    """Read tensors as NumPy arrays.

    Args:
        tensors: Tensors by their name in the file.
        names: Names in the file by canonical name.

    Returns:
        The arrays in the order of `names`, and their problems.
    """
    sources, problems = [], []
    for canonical_name, name in names.items():
        value = tensors[name]
        try:
            sources.append(_to_numpy(value))
        except Exception as error:  # sparse, quantized and meta tensors raise different types
            problems.append((canonical_name, f"cannot be read: {first_line(error)}"))
    return sources, problems or check_values(list(names), sources)


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # torch cannot convert bfloat16 to NumPy, so its bits are reinterpreted.
        if str(value.dtype) == "torch.bfloat16":
            import torch
            from ml_dtypes import bfloat16

            return value.view(torch.int16).numpy().view(bfloat16)
        return value.numpy()
    return np.asarray(value)


def _fit_positions(
    name: str, positions: np.ndarray, model: ViT, grid: tuple[int, int] | None, file_format: Format
) -> tuple[np.ndarray, list[Problem]]:
    """Resample position embeddings to the grid of a model.

    Args:
        name: Canonical name of the tensor.
        positions: Tensor of the file.
        model: Model of `create_model`.
        grid: Patch grid of `positions`, or None if it is not specified.
        file_format: Format of the file.

    Returns:
        Resampled positions, and problems with the grid. `positions` itself is returned if the grid matches or the shape
        is invalid, which the check of shapes reports.
    """
    prefix = 0 if model.no_embed_class else model.prefix
    if positions.ndim != 3 or positions.shape[0] != 1 or positions.shape[2] != model.embed_dim:
        return positions, []
    count, (height, width) = positions.shape[1] - prefix, model.grid
    side = round(max(count, 0) ** 0.5)
    if grid is not None and grid[0] * grid[1] != count:
        expected = f"expected {grid[0] * grid[1]} positions for grid {grid[0]}x{grid[1]}"
        return positions, [(name, f"{expected}, got {count}")]
    if grid is None and count > 0 and side * side == count:
        if count == height * width and height != width:
            return positions, [(name, f"ambiguous grid, {side}x{side} or {height}x{width} (set grid or --grid)")]
        grid = (side, side)
    if grid is None or grid == model.grid:
        return positions, []
    return np.asarray(resample_positions(positions, prefix, grid, model.grid, *file_format.resampling)), []
