"""The device mesh `data x model`: the batch is cut over both axes, and parameters, if at all, over `model`.

`model=1` keeps every parameter whole on every device. A greater one is fully sharded data parallelism (FSDP;
Rajbhandari et al., 2020): a device keeps its part of the large parameters, of their averages and of the optimizer's
state, gathers the others' parts for the forward and backward pass, and gets back its part of the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path  # pyright: ignore[reportUnknownVariableType]

from tcvit_jax.errors import InputError


class ParameterTable(Protocol):
    """What sharding needs to know of an architecture (see `models.parameters`)."""

    def mesh_axis(self, path: tuple[Any, ...]) -> int | None:
        """Return the axis to shard over `model` of the parameter that a key path leads to, counted from the end.

        None replicates it. Raises an `InputError` for a parameter that is not in the table.
        """
        ...


def data_mesh() -> Mesh:
    """All devices of all processes, each with all parameters."""
    return make_mesh()


def make_mesh(data: int = 0, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `data x model` over all devices of all processes, in the order of their processes.

    So a process's rows of a batch follow each other, and rows have the same numbers on any mesh.

    Args:
        data: devices that the batch alone is cut over; 0 for as many as there are.
        model: devices that share the parameters.
        devices: others than those there are.

    Raises:
        InputError: there are not as many devices.
    """
    found: list[Any] = sorted(
        devices or jax.devices(),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        key=lambda device: (device.process_index, device.id),
    )
    count = len(found)
    if model < 1 or count % model:
        nearest = min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: (abs(n - model), n))
        raise InputError(f"mesh.model={model} does not divide {count} devices: use {nearest}")
    if data not in (0, count // model):
        raise InputError(
            f"mesh.data={data} times mesh.model={model} is not {count} devices: use mesh.data={count // model}, or 0 "
            "for all that are left"
        )
    return Mesh(np.array(found).reshape(-1, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def model_size(mesh: Mesh) -> int:
    """How many devices share a parameter."""
    return mesh.shape.get("model", 1)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis, the batch, cut over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def spec(path: tuple[Any, ...], leaf: Any, mesh: Mesh, table: ParameterTable) -> PartitionSpec:
    """Return how a leaf of a state lies on the mesh.

    Args:
        path: key path of the leaf, such as that of a parameter, of its moving average or of its Adam moments.
        leaf: an array or its shape; scalars, such as step counts, are replicated.
        mesh: the device mesh.
        table: of the architecture.

    Raises:
        InputError: the leaf has axes, and the table has no row for it.
    """
    ndim = len(leaf.shape)
    axis = table.mesh_axis(path) if ndim else None
    if axis is None or model_size(mesh) == 1:
        return PartitionSpec()
    return PartitionSpec(*("model" if index == axis % ndim else None for index in range(ndim)))


def specs(tree: Any, mesh: Mesh, table: ParameterTable) -> Any:
    """Return `spec` of every leaf."""

    def spec_of(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        return spec(path, leaf, mesh, table)

    return jax.tree_util.tree_map_with_path(spec_of, tree)


def shardings(tree: Any, mesh: Mesh, table: ParameterTable) -> Any:
    """Return the sharding of every leaf of a tree of arrays or shapes."""

    def sharding_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, spec(path, leaf, mesh, table))

    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def check_shardable(params: Any, mesh: Mesh, table: ParameterTable) -> None:
    """Raise an `InputError` unless the devices of `model` can share the parameters (arrays or shapes) evenly."""
    size = model_size(mesh)
    for path, leaf in tree_leaves_with_path(params):  # pyright: ignore[reportUnknownVariableType]
        for axis, name in enumerate(spec(path, leaf, mesh, table)):  # pyright: ignore[reportUnknownArgumentType]
            if name and leaf.shape[axis] % size:
                nearest = max(n for n in range(1, size + 1) if leaf.shape[axis] % n == 0)
                raise InputError(
                    f"mesh.model={size} cannot share the {leaf.shape[axis]} columns of "
                    f"{keystr(path, simple=True, separator='/')}: use {nearest}"
                )


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch on the mesh, from the rows that this process read."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value)  # pyright: ignore[reportUnknownMemberType]
        for key, value in batch.items()
    }


def place_replicated(tree: Any, mesh: Mesh) -> Any:
    """Every array of `tree` whole on every device: of the host, or of this mesh."""
    if model_size(mesh) > 1 and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
        # Parts that other processes hold come through a program; a copy from the host alone cannot reach them.
        gather = jax.jit(_same, out_shardings=replicated(mesh))  # pyright: ignore[reportUnknownMemberType]
        return gather(tree)  # pyright: ignore[reportUnknownVariableType]
    return jax.device_put(tree, replicated(mesh))  # pyright: ignore[reportUnknownMemberType]


def _same(tree: Any) -> Any:
    """One function for all calls, so that the program is compiled once."""
    return tree


def check_divisible(key: str, batch_size: int, mesh: Mesh, rows: int = 1) -> None:
    """Raise an `InputError` unless the devices can share the batch evenly, each a multiple of `rows`.

    It names the nearest size that they can.
    """
    multiple = mesh.size * rows
    if batch_size < 1 or batch_size % multiple:
        nearest = max(1, round(batch_size / multiple)) * multiple
        each = f", {rows} rows at a time" if rows > 1 else ""
        raise InputError(f"{key}={batch_size} cannot be shared by {mesh.size} devices{each}: use {nearest}")


def as_replicated(tree: Any, mesh: Mesh) -> Any:
    """Abstract leaves of `tree` (shapes and dtypes), to be held whole by every device."""

    def whole(_: Any) -> NamedSharding:
        return replicated(mesh)

    return as_sharded(tree, jax.tree.map(whole, tree))


def as_sharded(tree: Any, placed: Any) -> Any:
    """Abstract leaves of `tree` (shapes and dtypes) that lie as `placed`, a tree of shardings, says."""

    def abstract(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(abstract, tree, placed)
