"""Check of variables against a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from tcvit_jax.errors import invalid, kind_of
from tcvit_jax.models.create import check_model, variable_shapes
from tcvit_jax.models.inputs import count_blocks
from tcvit_jax.models.vit import ViT


def check_variables(model: ViT, variables: Mapping[str, Any]) -> None:
    """Check that variables are those of a model: every leaf is expected, found, floating-point and of its shape.

    Flax ignores variables that a module does not read, and reports missing ones from inside of the module. This check
    reads no values, so the leaves may be traced arrays or `jax.ShapeDtypeStruct`.

    Args:
        model: A model of `create_model`.
        variables: `{"params": ...}` and, if the model has any, `"batch_stats"`.

    Raises:
        InputError: A leaf is missing or unknown, or has another shape or dtype. The message names the first one.
    """
    check_model(model)
    subject, expected = f"variables of {model.variant}", dict(named_leaves(variable_shapes(model)))
    if not isinstance(variables, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  (users also pass None)
        raise invalid(subject, f"expected a mapping with 'params', got {kind_of(variables)}")
    params = variables.get("params")
    if not isinstance(params, Mapping):
        problem = f"expected a mapping, got {kind_of(params)}" if "params" in variables else "not found"
        raise invalid(f"{subject}: params", problem, "pass the variables {'params': ...}")
    blocks = count_blocks(cast("Mapping[Any, Any]", params))
    if blocks != model.depth:
        raise invalid(subject, f"expected {model.depth} blocks, got {blocks}", f"set depth={blocks}" if blocks else "")
    leaves = dict(named_leaves(variables))
    for path, shape in expected.items():
        if path not in leaves:
            raise invalid(f"{subject}: {path}", "not found")
        _check_leaf(f"{subject}: {path}", leaves[path], shape.shape)
    for path in leaves:
        if path not in expected:
            raise invalid(f"{subject}: {path}", "unexpected")


def named_leaves(variables: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path of each leaf, such as `params.head.kernel`, and the leaf.

    Args:
        variables: Nested mappings. Everything else is a leaf.
        prefix: The prefix of all paths.

    Yields:
        `(path, leaf)`.
    """
    for key, value in variables.items():
        if isinstance(value, Mapping):
            yield from named_leaves(cast("Mapping[Any, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_leaf(subject: str, leaf: object, shape: tuple[int, ...]) -> None:
    is_array = isinstance(leaf, np.ndarray | jax.Array | jax.ShapeDtypeStruct)
    array = cast("np.ndarray[Any, Any]", leaf)
    if not is_array or array.shape != shape or not jnp.issubdtype(array.dtype, jnp.floating):
        raise invalid(subject, f"expected float {shape}, got {kind_of(cast(object, leaf))}")
