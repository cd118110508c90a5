"""Reading of variables from named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tcvit_jax.convert.files import WeightFile, to_numpy
from tcvit_jax.convert.formats import Source
from tcvit_jax.convert.patches import adapt_patch_embed
from tcvit_jax.convert.positions import MAX_POSITIONS, fit_positions
from tcvit_jax.convert.problems import InvalidTensorError, Problem, check_shape, check_use, check_values
from tcvit_jax.errors import InputError, first_line
from tcvit_jax.models import ViT
from tcvit_jax.models.parameters import Parameter, Tensors

# The path of the kernel of a patch embedding that is one convolution.
PATCH_KERNEL = "patch_embed/kernel"
# The end of the name of rotary periods, which are computed here.
PERIODS = ".rope_embed.periods"


class Reader:
    """Reading of variables from tensors, and what was done with the tensors.

    Attributes:
        names: Names of the tensors that were read, by dtype.
        resampled: Names of position embeddings that were resampled.
        notes: What was done with positions of prefix tokens.
        warnings: Tensors that are constant.
        is_adaptable: Whether the kernel of the patch embedding has a wrong shape, but can be adapted.
    """

    def __init__(
        self,
        tensors: Mapping[str, Any],
        model: ViT,
        grid: tuple[int, int] | None,
        resampling: tuple[str, bool],
        *,
        keep_dtype: bool,
        adapt_patch_embed: bool,
    ) -> None:
        self._tensors, self._model, self._grid, self._resampling = tensors, model, grid, resampling
        self._keep_dtype, self._adapt_patch_embed = keep_dtype, adapt_patch_embed
        self.is_adaptable = False
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
                if row.path == PATCH_KERNEL and self._is_adapted(sources[name], entry, shape):
                    return self._adapted(sources[name], entry, shape), []
                if row.role == "positions":
                    arrays.append(self._positions(name, sources[name], tensor_shape))
                else:
                    arrays.append(self._tensor(sources[name], tensor_shape))
            except InvalidTensorError as error:
                problems.append((name, str(error)))
        if problems:
            return None, problems
        array = entry.layout.load(arrays, shape)
        variable = np.ascontiguousarray(array, self._dtype(array))
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
        tensor = self._tensor(source, shape, resizable_axis=1)
        positions = fit_positions(tensor, self._model, self._grid, self._resampling)
        check_shape(positions.values.shape, shape)
        self._prefix_positions = positions.prefix
        self.notes += [f"{name}: {positions.note}"] if positions.note else []
        self.resampled += source.names if positions.is_resampled else ()
        return positions.values.astype(self._dtype(tensor), copy=False)

    def _dtype(self, array: np.ndarray) -> np.dtype:
        """Return the dtype of the variable of a tensor."""
        return array.dtype if self._keep_dtype and array.dtype.name in ("float16", "bfloat16") else np.dtype(np.float32)

    def _is_adapted(self, source: Source, entry: Tensors, shape: tuple[int, ...]) -> bool:
        """Return whether the kernel of the patch embedding has another patch size or number of channels and is adapted.

        Args:
            source: Source of the kernel.
            entry: Tensors of the kernel.
            shape: `(height, width, channels, width)` of the variable.
        """
        stored = shape_of(self._tensors, source.names[0])
        if stored is None or len(stored) != 4 or len(source.names) > 1 or source.block is not None:
            return False
        kernel = entry.layout.load([np.broadcast_to(np.float32(0), stored)], shape).shape
        differs = kernel != shape and kernel[3] == shape[3] and 0 not in kernel and kernel[2] in (3, shape[2])
        self.is_adaptable = self.is_adaptable or differs
        return differs and self._adapt_patch_embed

    def _adapted(self, source: Source, entry: Tensors, shape: tuple[int, ...]) -> np.ndarray:
        """Return the kernel of the patch embedding for the patch size and number of channels of the model."""
        stored = shape_of(self._tensors, source.names[0]) or ()
        tensor = self._tensor(source, stored)
        kernel = entry.layout.load([tensor], shape).transpose(3, 2, 0, 1)
        adapted = adapt_patch_embed(kernel, shape[2], (shape[0], shape[1]))
        self.notes.append(f"{source.names[0]}: adapted from shape {kernel.shape} to {adapted.shape}")
        return np.ascontiguousarray(adapted.transpose(2, 3, 1, 0), self._dtype(tensor))

    def _tensor(self, source: Source, expected: Sequence[int], resizable_axis: int | None = None) -> np.ndarray:
        """Return a tensor of the parameter table.

        The shape is checked before the tensor is read, because a damaged file can claim any size.
        """
        shapes = [shape_of(self._tensors, name) for name in source.names]
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


def check_periods(tensors: Mapping[str, Any], model: ViT) -> list[Problem]:
    """Check the periods of rotary positions in files of the official code of DINOv3, which stores them in bfloat16.

    Returns:
        One problem for each tensor that does not have the periods of the model.
    """
    rotary = model.parts.trunk.rotary
    if rotary is None or rotary.rope_type != "dinov3":
        return []
    problems: list[Problem] = []
    expected = 1 / rotary.frequencies()
    for name in tensors:
        if not f".{name}".endswith(PERIODS):
            continue
        if shape_of(tensors, name) not in (None, expected.shape):
            problems.append((name, f"expected shape {expected.shape}, got {shape_of(tensors, name)}"))
        elif not np.allclose(to_numpy(tensors[name]).astype(np.float32), expected, rtol=1e-2, atol=0):
            problems.append((name, f"expected the periods of rope_temperature={model.rope_temperature:g}"))
    return problems


def shape_of(tensors: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    """Return the shape of a tensor, or None for a value whose shape is not known before it is read."""
    if isinstance(tensors, WeightFile):
        return tensors.shape(name)
    shape = getattr(tensors[name], "shape", None)
    return None if shape is None else tuple(shape)
