"""Parameter tables: one row per variable of an architecture.

The optimizer, layer-wise learning rate decay, sharding and the converter read these rows. A variable without a row is
an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from jax.tree_util import DictKey, keystr  # pyright: ignore[reportUnknownVariableType]

from tcvit_jax.errors import InputError
from tcvit_jax.models.layouts import SAME, Layout

# What `jax.tree_util` passes to the function of `tree_map_with_path`.
KeyPath = tuple[Any, ...]
Role = Literal["kernel", "bias", "norm", "scale", "token", "positions", "classifier", "statistic"]
Layer = Literal["embedding", "block", "head"]

# Flax's collections of variables.
COLLECTIONS = ("params", "batch_stats")
# Stands for the number of the block in paths and in names of tensors.
BLOCK = "{block}"


@dataclass(frozen=True)
class Tensors:
    """The tensors of a weight file that hold one variable.

    Attributes:
        names: of the tensors; `{block}` stands for the number of the block.
        layout: how they hold it.
    """

    names: tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Parameter:
    """One row: a variable, or one variable of every block.

    Attributes:
        path: `/`-separated path within its collection; `{block}` stands for the number of the block.
        role: `"classifier"` is replaced for another number of classes, `"positions"` are resampled for another grid,
            and a `"statistic"` is not trained; the other roles are descriptive.
        layer: position for layer-wise decay: the embedding, the block of the path, or the head.
        decays: whether weight decay applies.
        mesh_axis: axis that is sharded over the mesh axis `model`, counted from the end; None if replicated.
        files: names and layouts by weight file format; a format without this variable is absent.
    """

    path: str
    role: Role
    layer: Layer
    decays: bool = False
    mesh_axis: int | None = None
    files: Mapping[str, Tensors] = field(default_factory=dict[str, Tensors])

    @property
    def collection(self) -> str:
        """The Flax collection that the variable belongs to."""
        return "batch_stats" if self.role == "statistic" else "params"


@dataclass(frozen=True)
class ParameterTable:
    """All variables that models of an architecture can have.

    Paths are key paths of JAX or `/`-separated strings, with or without the collection in front. A key path may lead
    through a longer tree, such as an optimizer state: the parameter is where its dictionaries begin.

    Attributes:
        architecture: name for error messages.
        rows: one per variable; no path occurs twice.
    """

    architecture: str
    rows: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        paths = [row.path for row in self.rows]
        repeated = sorted({path for path in paths if paths.count(path) > 1})
        if repeated:
            raise ValueError(f"the {self.architecture} parameter table has several rows for {', '.join(repeated)}")

    @cached_property
    def _by_path(self) -> dict[str, Parameter]:
        return {row.path: row for row in self.rows}

    def row(self, path: KeyPath | str) -> Parameter:
        """Return the row of a variable.

        Raises:
            InputError: the table has no row for it.
        """
        return self._locate(path)[0]

    def decays(self, path: KeyPath | str) -> bool:
        """Return whether weight decay applies to a parameter."""
        return self.row(path).decays

    def mesh_axis(self, path: KeyPath | str) -> int | None:
        """Return the axis of a variable that is sharded over the mesh axis `model`, counted from the end, or None."""
        return self.row(path).mesh_axis

    def layer(self, path: KeyPath | str, depth: int) -> int:
        """Return the layer of a parameter in a model of `depth` blocks: 0 is the embedding, `depth + 1` the head."""
        row, block = self._locate(path)
        return {"embedding": 0, "block": block + 1, "head": depth + 1}[row.layer]

    def tensors(self, path: KeyPath | str, file_format: str) -> Tensors | None:
        """Return the tensors that hold a variable in a weight file format, or None if the format has none."""
        row, block = self._locate(path)
        tensors = row.files.get(file_format)
        if tensors is None:
            return None
        return Tensors(tuple(name.replace(BLOCK, str(block)) for name in tensors.names), tensors.layout)

    def classifier_tensors(self, file_format: str) -> frozenset[str]:
        """Return the names of all tensors of classifiers in a weight file format."""
        rows = [row for row in self.rows if row.role == "classifier" and file_format in row.files]
        return frozenset(name for row in rows for name in row.files[file_format].names)

    def _locate(self, path: KeyPath | str) -> tuple[Parameter, int]:
        """Return the row of a variable and the number of its block, -1 outside of blocks."""
        name = path if isinstance(path, str) else variable_path(path)
        first, _, rest = name.partition("/")
        collection, inner = (first, rest) if first in COLLECTIONS else (None, name)
        block = re.match(r"blocks_(\d+)/", inner)
        template = inner if block is None else f"blocks_{BLOCK}/{inner[block.end() :]}"
        row = self._by_path.get(template)
        if row is None or collection not in (None, row.collection):
            where = name or keystr(path if isinstance(path, tuple) else (), simple=True, separator="/")
            raise InputError(f"unknown parameter {where!r}: not in the {self.architecture} parameter table")
        return row, int(block[1]) if block else -1


def variable_path(path: KeyPath) -> str:
    """Return the `/`-separated path of the variable that a key path of a longer tree leads to.

    Variables are nested dictionaries; training states and Optax's states around them are dataclasses and tuples. The
    collection, if the path has one, is the first name. The result is empty for a leaf outside of any dictionary.
    """
    start = len(path)
    while start and isinstance(path[start - 1], DictKey):
        start -= 1
    names = [str(key.key) for key in path[start:]]
    first = next((index for index, name in enumerate(names) if name in COLLECTIONS), 0)
    return "/".join(names[first:])
