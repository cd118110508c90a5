"""Conversion between named tensors and variables. Every tensor and every variable is used exactly once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from tcvit_jax.convert.files import WeightFile, to_numpy
from tcvit_jax.convert.formats import TIMM, Format, Source, fitting_prefixes, format_of, wrapper_of
from tcvit_jax.convert.hints import prefix_hint, selection_hint
from tcvit_jax.convert.positions import MAX_POSITIONS, fit_positions
from tcvit_jax.convert.problems import (
    NOT_FOUND,
    InvalidTensorError,
    Problem,
    check_shape,
    check_unexpected,
    check_use,
    check_values,
    map_names,
    merge_blocks,
    summarize,
)
from tcvit_jax.errors import InputError, first_line, invalid, kind_of
from tcvit_jax.models import ViT, variable_shapes
from tcvit_jax.models.create import check_model
from tcvit_jax.models.parameters import Parameter, Tensors
from tcvit_jax.models.variables import named_leaves


@dataclass(frozen=True)
class Conversion:
    """Converted variables, and how each tensor was used.

    Attributes:
        variables: `{"params": ...}` and, if the model has any, `"batch_stats"`; float32 NumPy arrays.
        mapped: Names of tensors that were converted without resampling.
        resampled: Names of position embeddings that were resampled to the grid of the model.
        replaced: Names of classifier tensors that were discarded; the new classifier is zero.
        ignored: Names of tensors that are not weights.
        dtypes: Names of the converted tensors by dtype.
        notes: What else was done with the tensors, one sentence each.
        warnings: Tensors whose values make the model useless as it is, one sentence each.
    """

    variables: dict[str, Any]
    mapped: tuple[str, ...]
    resampled: tuple[str, ...]
    replaced: tuple[str, ...]
    ignored: tuple[str, ...]
    dtypes: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """Dtype of the tensors, with their numbers if there are several."""
        if len(self.dtypes) == 1:
            return next(iter(self.dtypes))
        return " and ".join(f"{dtype} ({len(names)})" for dtype, names in self.dtypes.items())


def from_torch(
    state_dict: Mapping[str, Any], model: ViT, *, new_head: bool = False, grid: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Convert named tensors of other projects to the variables of a model.

    The names are those of timm or of the official code of DeiT, DINO, MAE, DINOv2, LV-ViT, CLIP and OpenCLIP
    (image encoder), AugReg, big_vision, scenic, or transformers.

    Args:
        state_dict: Tensors by name: NumPy, torch, or anything that `np.asarray` accepts, of floating-point dtypes.
        model: Model of `create_model` with matching sizes. Its reducer has no parameters and may be any. For another
            `img_size`, position embeddings are resampled as in timm: bicubic with antialiasing, or bilinear without
            antialiasing for names of AugReg, big_vision and scenic.
        new_head: Whether to discard the classifiers of `state_dict`. Those of `model`, with any number of classes, are
            then zero.
        grid: Patch grid `(height, width)` of the position embeddings in `state_dict`. By default the grid that the file
            records, or else a square.

    Returns:
        `{"params": ...}` and, if the model has any, `"batch_stats"`; float32.

    Raises:
        InputError: Names are missing, unexpected or duplicate, shapes do not match, values are not finite, or zeros
            make the output independent of the image. The message lists all problems in one line.

    Warns:
        UserWarning: A classifier or another kernel is constant, such as that of a model that was not trained.
    """
    conversion = convert(state_dict, model, new_head=new_head, grid=grid)
    for text in conversion.warnings:
        warnings.warn(f"weights for {model.variant}: {text}", stacklevel=2)
    return conversion.variables


def to_torch(variables: Mapping[str, Any], model: ViT) -> dict[str, np.ndarray]:
    """Convert the variables of a model to float32 tensors with timm's names and layouts. Inverse of `from_torch`.

    Raises:
        InputError: The variables do not match the model, or timm's format cannot store one of them.
    """
    _check_arguments(model, "variables", variables)
    arrays = dict(named_leaves(variables))
    for path, value in arrays.items():
        if not hasattr(value, "shape"):
            raise invalid(f"variables of {model.variant}: {path}", f"expected an array, got {kind_of(value)}")
    expected: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    problems = [(path, "unexpected") for path in set(arrays) - set(expected)]
    problems += [(path, NOT_FOUND) for path in set(expected) - set(arrays)]
    for path in set(arrays) & set(expected):
        try:
            check_shape(arrays[path].shape, expected[path].shape)
        except InvalidTensorError as error:
            problems.append((path, str(error)))
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
    _check_arguments(model, "state_dict", tensors)
    table, file_format = model.PARAMETERS, format_of(tensors)
    shapes: dict[str, Any] = traverse_util.flatten_dict(variable_shapes(model), sep=".")
    entries = {path: table.tensors(_table_path(path), file_format.name) for path in shapes}
    classifiers = table.classifier_tensors(file_format.name)
    encoder = {name for entry in entries.values() if entry for name in entry.names} - classifiers
    prefix = _choose_prefix(tensors, encoder, file_format, model)
    sources, problems = map_names(file_format.sources(tensors, model.depth, prefix))
    zeros = file_format.zeros(tensors, prefix)
    for name in [name for name, source in sources.items() if _is_optional(name, tensors, source, encoder)]:
        del sources[name]
    pre_logits = {name for name in sources if re.fullmatch(file_format.pre_logits, name)}
    dropped = (classifiers | pre_logits) & set(sources) if new_head else set[str]()
    remaining, expected_names = set(sources) - dropped, list[str]()
    reader = _Reader(tensors, model, grid or getattr(tensors, "grid", None), file_format.resampling)
    variables: dict[str, np.ndarray] = {}
    for path, expected in shapes.items():
        row, entry = table.row(_table_path(path)), entries[path]
        if entry is None:
            problems.append((path, f"cannot be stored in {file_format.name} files"))
            continue
        if row.role == "classifier" and (new_head or zeros.issuperset(entry.names)):
            variables[path] = np.zeros(expected.shape, np.float32)
            continue
        expected_names += entry.names
        missing = [name for name in entry.names if name not in remaining]
        remaining.difference_update(entry.names)
        if missing:
            problems += [(name, NOT_FOUND) for name in missing]
            continue
        variable, errors = reader.read(row, entry, sources, expected.shape)
        problems += errors
        if variable is not None:
            variables[path] = variable
    if pre_logits - dropped:
        # With a classifier of zeros the layer in front of it has no effect. The files of the original ViT have one.
        kernels = [path for path in variables if table.row(_table_path(path)).role == "classifier" and "kernel" in path]
        if kernels and not any(variables[path].any() for path in kernels):
            remaining -= pre_logits
        problems += [(name, "a layer that the model does not have") for name in remaining & pre_logits]
    unexpected = [name for canonical_name in remaining - pre_logits for name in sources[canonical_name].names]
    problems += check_unexpected(unexpected, problems)
    if problems:
        hint = selection_hint(list(tensors), expected_names, classifiers | pre_logits, problems, file_format, prefix)
        raise invalid(f"weights for {model.variant}", summarize(problems), hint)
    reader.add_prefix_positions(variables)
    replaced = {name for canonical_name in dropped for name in sources[canonical_name].names}
    mapped = {name for names in reader.names.values() for name in names}
    return Conversion(
        variables=traverse_util.unflatten_dict(variables, sep="."),
        mapped=tuple(sorted(mapped - set(reader.resampled))),
        resampled=tuple(reader.resampled),
        replaced=tuple(sorted(replaced)),
        ignored=tuple(sorted(set(tensors) - mapped - replaced)),
        dtypes={dtype: tuple(sorted(set(names))) for dtype, names in sorted(reader.names.items())},
        notes=(*([f"prefix {prefix!r} was removed from names"] if prefix else []), *reader.notes),
        warnings=tuple(f"{name}: {problem}" for name, problem in merge_blocks(reader.warnings)),
    )


def _choose_prefix(names: Collection[str], encoder: Collection[str], file_format: Format, model: ViT) -> str:
    """Return the prefix to remove from names: the one that gives all tensors of the encoder, or one of all names.

    Raises:
        InputError: Several prefixes give all tensors.
    """
    prefixes = fitting_prefixes(names, encoder, file_format, model.depth)
    if len(prefixes) > 1:
        raise invalid(f"weights for {model.variant}", "several prefixes fit", prefix_hint(prefixes))
    return prefixes[0] if prefixes else wrapper_of(names)


def _is_optional(name: str, tensors: Mapping[str, Any], source: Source, encoder: Collection[str]) -> bool:
    """Return whether a tensor is left out if the model does not have it: attention pooling, or zero registers."""
    if name in encoder:
        return False
    return name.startswith("attn_pool.") or (name == "reg_token" and 0 in (_shape_of(tensors, source.names[0]) or ()))


class _Reader:
    """Reading of variables from tensors, and what was done with the tensors.

    Attributes:
        names: Names of the tensors that were read, by dtype.
        resampled: Names of position embeddings that were resampled.
        notes: What was done with positions of prefix tokens.
        warnings: Tensors that are constant.
    """

    def __init__(
        self, tensors: Mapping[str, Any], model: ViT, grid: tuple[int, int] | None, resampling: tuple[str, bool]
    ) -> None:
        self._tensors, self._model, self._grid, self._resampling = tensors, model, grid, resampling
        self._prefix_positions: np.ndarray | None = None
        self.names: dict[str, list[str]] = {}
        self.resampled: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[Problem] = []

    def read(
        self, row: Parameter, entry: Tensors, sources: Mapping[str, Source], shape: tuple[int, ...]
    ) -> tuple[np.ndarray | None, list[Problem]]:
        """Return a variable, or None and the problems of its tensors."""
        arrays: list[np.ndarray] = []
        problems: list[Problem] = []
        for name, tensor_shape in zip(entry.names, entry.layout.shapes(shape, self._model.num_heads), strict=True):
            try:
                if row.role == "positions":
                    arrays.append(self._positions(name, sources[name], tensor_shape))
                else:
                    arrays.append(self._tensor(sources[name], tensor_shape))
            except InvalidTensorError as error:
                problems.append((name, str(error)))
        if problems:
            return None, problems
        variable = np.ascontiguousarray(entry.layout.load(arrays, shape), np.float32)
        try:
            warning = check_use(row, variable)
        except InvalidTensorError as error:
            return None, [(entry.names[0], str(error))]
        self.warnings += [(entry.names[0], warning)] if warning else []
        return variable, []

    def add_prefix_positions(self, variables: dict[str, np.ndarray]) -> None:
        """Add positions of prefix tokens that the model does not have to the tokens in `variables`."""
        positions = self._prefix_positions
        for path in ("params.cls_token", "params.dist_token", "params.reg_token"):
            if positions is not None and path in variables:
                count = min(variables[path].shape[1], len(positions))
                token = np.array(variables[path])  # a copy, because the tensor belongs to the caller
                token[0, :count] += positions[:count]
                variables[path] = token
                positions = positions[count:]

    def _positions(self, name: str, source: Source, shape: Sequence[int]) -> np.ndarray:
        """Return position embeddings, resampled to the grid of the model."""
        positions = fit_positions(
            self._tensor(source, shape, resizable_axis=1), self._model, self._grid, self._resampling
        )
        check_shape(positions.values.shape, shape)
        self._prefix_positions = positions.prefix
        self.notes += [f"{name}: {positions.note}"] if positions.note else []
        self.resampled += source.names if positions.is_resampled else ()
        return positions.values

    def _tensor(self, source: Source, expected: Sequence[int], resizable_axis: int | None = None) -> np.ndarray:
        """Return a tensor of the parameter table.

        The shape is checked before the tensor is read, because a damaged file can claim any size.
        """
        shapes = [_shape_of(self._tensors, name) for name in source.names]
        try:
            shape = source.shape([each for each in shapes if each is not None]) if None not in shapes else None
            if source.block is not None and shapes[0] is not None and shapes[0][0] != self._model.depth:
                raise InvalidTensorError(f"expected {self._model.depth} stacked blocks, got {shapes[0][0]}")
            if shape is not None:
                limit = list(expected)
                if resizable_axis is not None and len(shape) == len(limit):
                    limit[resizable_axis] = min(shape[resizable_axis], MAX_POSITIONS)
                check_shape(shape, limit if resizable_axis is None or shape == tuple(limit) else expected)
            arrays = [to_numpy(self._tensors[name]) for name in source.names]
        except (InputError, InvalidTensorError, MemoryError):
            raise
        except Exception as error:  # sparse, quantized and meta tensors raise different types
            raise InvalidTensorError(f"cannot be read: {first_line(error)}") from error
        for name, array in zip(source.names, arrays, strict=True):
            check_values(array)
            self.names.setdefault(array.dtype.name, []).append(name)
        return source.assemble(arrays)


def _shape_of(tensors: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """Return the shape of a tensor, or None for a value whose shape is not known before it is read."""
    if isinstance(tensors, WeightFile):
        return tensors.shape(name)
    shape = getattr(tensors[name], "shape", None)
    return None if shape is None else tuple(shape)


def _check_arguments(model: object, name: str, arrays: object) -> None:
    """Raise an `InputError` unless `model` is a model and `arrays`, the argument `name`, a mapping from strings."""
    check_model(model)
    if not isinstance(arrays, Mapping):
        hint = "pass its state_dict()" if hasattr(arrays, "state_dict") else ""
        raise invalid(name, f"expected a mapping from names to arrays, got {kind_of(arrays)}", hint)
    for key in arrays:
        if not isinstance(key, str):
            raise invalid(name, f"expected names of type str, got {kind_of(key)}")


def _table_path(path: str) -> str:
    """Return the path of a variable as in the parameter tables, such as `params/blocks_0/norm1/scale`."""
    return path.replace(".", "/")
