"""Decoders from patch features to maps: a Flax module and its weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tcvit_jax import checkpoint, convert
from tcvit_jax.convert.files import to_numpy
from tcvit_jax.errors import InputError, cannot_read, first_line, invalid, kind_of, out_of_range
from tcvit_jax.models.variables import named_leaves

_EXPECTED = "package.module:NAME of a Flax module or of a function that returns one"


@dataclass(frozen=True)
class Decoder:
    """A decoder of maps.

    Attributes:
        name: The name that it was loaded by.
        module: A Flax module that maps patch features `[B, h, w, D]` to a map `[B, H, W, C]`: probabilities if `C` is
            1, or else scores of classes.
        variables: Its variables.
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]

    @property
    def checksum(self) -> str:
        """The checksum of the variables."""
        return checkpoint.checksum(self.variables)

    def map_shape(self, grid: tuple[int, int], width: int) -> tuple[int, int, int]:
        """Return the height, the width and the channels of the map, and check the shapes of the variables.

        Args:
            grid: The height and width of the patch grid.
            width: The number of features of a patch.

        Raises:
            InputError: The decoder does not take such features or does not return a map, or the variables are not its
                own.
        """
        features = jax.ShapeDtypeStruct((1, *grid, width), jnp.float32)
        subject = f"--decoder {self.name}"
        try:
            output, expected = cast(Any, jax.eval_shape(self.module.init_with_output, jax.random.key(0), features))
        except InputError:
            raise
        except Exception as error:  # modules raise many types for features of another shape
            problem = f"cannot decode features {(*grid, width)}: {first_line(error)}"
            raise invalid(subject, problem) from error
        self._check_variables(expected)
        shape = getattr(output, "shape", ())
        if len(shape) != 4 or shape[0] != 1 or 0 in shape:
            raise invalid(subject, f"expected a map (1, H, W, C), got {kind_of(output)}")
        return shape[1:]

    def _check_variables(self, expected: Mapping[str, Any]) -> None:
        shapes, leaves = dict(named_leaves(expected)), dict(named_leaves(self.variables))
        for name, leaf in shapes.items():
            if name not in leaves:
                raise invalid("--decoder-weights", f"{name} of {self.name} not found", _hint(leaves))
            if leaves[name].shape != leaf.shape:
                raise invalid("--decoder-weights", f"{name}: expected {leaf.shape}, got {leaves[name].shape}")
        for name in leaves:
            if name not in shapes:
                raise invalid("--decoder-weights", f"{name} not found in {self.name}", _hint(shapes))


def _hint(names: Mapping[str, Any]) -> str:
    return f"names are {', '.join(sorted(names)[:3])} and so on; convert() of the decoder may rename them"


def load_decoder(name: str, weights: str) -> Decoder:
    """Load a decoder.

    A module may define a static function `convert(tensors: dict[str, np.ndarray]) -> variables` for the names and the
    layout of another library. Otherwise the names of tensors are split at `/` or `.`, and belong to the collection
    `params` unless they start with the name of a collection.

    Args:
        name: `package.module:NAME`, a Flax module class without required arguments, or a function that returns a
            module.
        weights: A weight file, as for `convert.read_state_dict`, or the directory of an Orbax checkpoint.

    Raises:
        InputError: The module or the weights are not found or cannot be read.
    """
    module = _create_module(name)
    tensors = _read_orbax(Path(weights)) if Path(weights).is_dir() else _read_tensors(weights)
    rename = cast("Callable[[dict[str, np.ndarray]], Any] | None", getattr(module, "convert", None))
    try:
        variables = rename(tensors) if rename else _nest(tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise cannot_read(weights, f"cannot convert the weights of {name}: {first_line(error)}") from error
    return Decoder(name, module, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables))


def _create_module(name: str) -> nn.Module:
    path, _, attribute = name.partition(":")
    if not path or not attribute:
        raise out_of_range("--decoder", name, _EXPECTED)
    try:
        module = getattr(importlib.import_module(path), attribute)()
    except InputError:
        raise
    except Exception as error:  # code of users may raise anything
        raise invalid(
            f"--decoder {name}", f"cannot be created: {first_line(error)}", f"expected {_EXPECTED}"
        ) from error
    if not isinstance(module, nn.Module):
        raise out_of_range("--decoder", name, _EXPECTED, f"it returns {kind_of(module)}")
    return module


def _read_tensors(path: str) -> dict[str, np.ndarray]:
    tensors = convert.read_state_dict(path)
    return {name: np.asarray(to_numpy(tensors[name])) for name in tensors}


def _read_orbax(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an Orbax checkpoint, with names that are joined by `/`."""
    import orbax.checkpoint as ocp

    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            metadata: Any = checkpointer.metadata(path.absolute()).item_metadata
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(metadata.tree))
            tree = checkpointer.restore(path.absolute(), restore_args=arguments)
    except Exception as error:  # Orbax raises many types for a directory that is no checkpoint
        raise cannot_read(path, f"cannot read the Orbax checkpoint: {first_line(error)}") from error
    return cast("dict[str, np.ndarray]", traverse_util.flatten_dict(tree, sep="/"))


def _nest(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return nested variables, from names that are joined by `/` or `.`."""
    paths = {tuple(name.replace("/", ".").split(".")): tensor for name, tensor in tensors.items()}
    has_collections = any(path[0] == "params" for path in paths)
    nested = cast("dict[str, Any]", traverse_util.unflatten_dict(paths))
    return nested if has_collections else {"params": nested}
