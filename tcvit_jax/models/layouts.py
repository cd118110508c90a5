"""Layouts of parameters in the weight files of other projects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Conversion between a Flax parameter and the tensors of a weight file.

    Attributes:
        shapes: Maps the shape of the parameter and the number of heads to the shapes of the tensors.
        load: Maps the tensors and the shape of the parameter to the parameter.
        dump: Inverse of `load` that maps the parameter to a single tensor; None for formats that are not written.
    """

    shapes: Callable[[Shape, int], list[Shape]]
    load: Callable[[Sequence[np.ndarray], Shape], np.ndarray]
    dump: Callable[[np.ndarray], np.ndarray] | None = None


SAME = Layout(lambda shape, heads: [shape], lambda tensors, shape: tensors[0], lambda array: array)
# Torch stores kernels as `[out, in]` and `[out, in, h, w]`, Flax as `[in, out]` and `[h, w, in, out]`.
LINEAR = Layout(lambda shape, heads: [shape[::-1]], lambda tensors, shape: tensors[0].T, lambda array: array.T)
CONV = Layout(
    lambda shape, heads: [(shape[3], shape[2], shape[0], shape[1])],
    lambda tensors, shape: tensors[0].transpose(2, 3, 1, 0),
    lambda array: array.transpose(3, 2, 0, 1),
)
# AugReg files store queries, keys and values separately, with an axis for the heads.
QKV_KERNEL = Layout(
    lambda shape, heads: [(shape[0], heads, shape[0] // heads)] * 3,
    lambda tensors, shape: np.concatenate([tensor.reshape(shape[0], -1) for tensor in tensors], axis=1),
)
QKV_BIAS = Layout(
    lambda shape, heads: [(heads, shape[0] // 3 // heads)] * 3,
    lambda tensors, shape: np.concatenate([tensor.reshape(-1) for tensor in tensors]),
)
HEADS_OUT = Layout(
    lambda shape, heads: [(heads, shape[0] // heads, shape[1])], lambda tensors, shape: tensors[0].reshape(shape)
)
