"""Parameter tables: one row per variable of an architecture.

The optimizer, layer-wise learning rate decay, sharding and the converter read these rows. A variable without a row
raises an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from jax.tree_util import DictKey, keystr  # pyright: ignore[reportUnknownVariableType]

from tcvit_jax.errors import invalid
from tcvit_jax.models.layouts import SAME, Layout

# The first argument of the function that `jax.tree_util.tree_map_with_path` maps.
KeyPath = tuple[Any, ...]
Role = Literal["kernel", "bias", "norm", "scale", "token", "positions", "classifier", "statistic"]
Layer = Literal["embedding", "block", "head"]

# Flax's collections of variables.
COLLECTIONS = ("params", "batch_stats")
# Placeholder for the block number in paths and tensor names.
BLOCK = "{block}"


@dataclass(frozen=True)
class Tensors:
    """Tensors of a weight file that store one variable.

    Attributes:
        names: Names of the tensors; `{block}` is a placeholder for the block number.
        layout: Conversion between the tensors and the variable.
    """

    names: tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Parameter:
    """One row of a parameter table: a variable, or the same variable of every block.

    Attributes:
        path: `/`-separated path within the collection; `{block}` is a placeholder for the block number.
        role: `"classifier"` is replaced for another number of classes, `"positions"` are resampled for another grid,
            and a `"statistic"` is not trained; the other roles are descriptive.
        layer: Position for layer-wise decay: the embedding, the block of the path, or the head.
        decays: Whether weight decay applies.
        mesh_axis: Axis that is sharded over the mesh axis `model`, counted from the end; None if replicated.
        files: Tensors by weight file format, without the formats that do not store this variable.
    """

    path: str
    role: Role
    layer: Layer
    decays: bool = False
    mesh_axis: int | None = None
    files: Mapping[str, Tensors] = field(default_factory=dict[str, Tensors])

    @property
    def collection(self) -> str:
        """Flax collection of the variable."""
        return "batch_stats" if self.role == "statistic" else "params"


@dataclass(frozen=True)
class ParameterTable:
    """All variables that models of an architecture can have.

    Methods take the path of a variable as a JAX key path or a `/`-separated string, with or without the collection in
    front. A key path may be part of a larger tree, such as an optimizer state; only its trailing dictionary keys count.

    Attributes:
        architecture: Name for error messages.
        rows: One row per variable, with unique paths.
    """

    architecture: str
    rows: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        paths = [row.path for row in self.rows]
        repeated = sorted({path for path in paths if paths.count(path) > 1})
        if repeated:
            raise ValueError(f"{self.architecture} parameter table: duplicate rows for {', '.join(repeated)}")

    @cached_property
    def _by_path(self) -> dict[str, Parameter]:
        return {row.path: row for row in self.rows}

    def row(self, path: KeyPath | str) -> Parameter:
        """Return the row of a variable.

        Raises:
            InputError: The table has no row for the variable.
        """
        return self._locate(path)[0]

    def decays(self, path: KeyPath | str) -> bool:
        """Return whether weight decay applies to a parameter."""
        return self.row(path).decays

    def mesh_axis(self, path: KeyPath | str) -> int | None:
        """Return the axis of a variable that is sharded over the mesh axis `model`, or None if it is replicated."""
        return self.row(path).mesh_axis

    def layer(self, path: KeyPath | str, depth: int) -> int:
        """Return the layer number of a parameter for layer-wise decay.

        Args:
            path: Path of the parameter.
            depth: Number of blocks of the model.

        Returns:
            0 for the embedding, `block + 1` for a block, `depth + 1` for the head.
        """
        row, block = self._locate(path)
        return {"embedding": 0, "block": block + 1, "head": depth + 1}[row.layer]

    def tensors(self, path: KeyPath | str, file_format: str) -> Tensors | None:
        """Return the tensors of a variable in a weight file format.

        Args:
            path: Path of the variable.
            file_format: Name of the format, such as `tables.TIMM`.

        Returns:
            The tensors, or None if the format does not store the variable.
        """
        row, block = self._locate(path)
        tensors = row.files.get(file_format)
        if tensors is None:
            return None
        return Tensors(tuple(name.replace(BLOCK, str(block)) for name in tensors.names), tensors.layout)

    def classifier_tensors(self, file_format: str) -> frozenset[str]:
        """Return the names of all classifier tensors in a weight file format."""
        rows = [row for row in self.rows if row.role == "classifier" and file_format in row.files]
        return frozenset(name for row in rows for name in row.files[file_format].names)

    def _locate(self, path: KeyPath | str) -> tuple[Parameter, int]:
        """Return the row of a variable and its block number, which is -1 outside of blocks."""
        name = path if isinstance(path, str) else variable_path(path)
        first, _, rest = name.partition("/")
        collection, inner = (first, rest) if first in COLLECTIONS else (None, name)
        block = re.match(r"blocks_(\d+)/", inner)
        template = inner if block is None else f"blocks_{BLOCK}/{inner[block.end() :]}"
        row = self._by_path.get(template)
        if row is None or collection not in (None, row.collection):
            where = name or keystr(path if isinstance(path, tuple) else (), simple=True, separator="/")
            raise invalid(f"parameter {where!r}", f"not found in the {self.architecture} parameter table", "add a row")
        return row, int(block[1]) if block else -1


def variable_path(path: KeyPath) -> str:
    """Return the `/`-separated path of a variable from its key path in a larger tree.

    Variables are nested dictionaries. Training states and Optax states, which contain them, are dataclasses and tuples.

    Args:
        path: Key path of a leaf.

    Returns:
        The path, starting with the collection if there is one; empty for a leaf outside of all dictionaries.
    """
    start = len(path)
    while start and isinstance(path[start - 1], DictKey):
        start -= 1
    names = [str(key.key) for key in path[start:]]
    first = next((index for index, name in enumerate(names) if name in COLLECTIONS), 0)
    return "/".join(names[first:])
