"""The device mesh `data x model`: the batch is sharded over both axes, and parameters over `model`.

With `model=1`, parameters are replicated. With a larger value, training is fully sharded data parallel (FSDP;
Rajbhandari et al., 2020): each device stores its shard of the large parameters, of their moving averages and of the
optimizer state, gathers the other shards for the forward and backward pass, and receives its shard of the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path  # pyright: ignore[reportUnknownVariableType]

from tcvit_jax.errors import out_of_range


class ParameterTable(Protocol):
    """The sharding axis of each parameter of an architecture (see `models.parameters`)."""

    def mesh_axis(self, path: tuple[Any, ...]) -> int | None:
        """Return the axis of a parameter that is sharded over `model`.

        Args:
            path: The key path of the parameter.

        Returns:
            A negative axis; None if the parameter is replicated.

        Raises:
            InputError: The parameter is not in the table.
        """
        ...


def data_mesh() -> Mesh:
    """Return a mesh over all devices of all processes, with replicated parameters."""
    return make_mesh()


def make_mesh(data: int = 0, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh `data x model` over all devices of all processes, ordered by process.

    With this order, the rows of a process are contiguous in the batch, and row numbers do not depend on the mesh.

    Args:
        data: The size of the axis `data`; 0 for all remaining devices.
        model: The size of the axis `model`, over which parameters are sharded.
        devices: The devices; None for all of them.

    Returns:
        The mesh.

    Raises:
        InputError: The sizes do not match the number of devices.
    """
    sorted_devices: list[Any] = sorted(
        devices or jax.devices(),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        key=lambda device: (device.process_index, device.id),
    )
    count = len(sorted_devices)
    if model < 1 or count % model:
        nearest = min((n for n in range(1, count + 1) if count % n == 0), key=lambda n: (abs(n - model), n))
        raise out_of_range("mesh.model", model, f"a divisor of {count}, the number of devices", f"use {nearest}")
    if data not in (0, count // model):
        condition = f"{count // model}, for {count} devices and mesh.model={model}"
        raise out_of_range("mesh.data", data, condition, "use 0 for all remaining devices")
    return Mesh(np.array(sorted_devices).reshape(-1, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def model_size(mesh: Mesh) -> int:
    """Return the size of the axis `model`, the number of shards of a parameter."""
    return mesh.shape.get("model", 1)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: the first axis is sharded over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def spec(path: tuple[Any, ...], leaf: Any, mesh: Mesh, table: ParameterTable) -> PartitionSpec:
    """Return the partition spec of one leaf of a training state.

    Args:
        path: The key path of the leaf, such as a parameter, its moving average or its Adam moments.
        leaf: An array or its shape; scalars, such as step counts, are replicated.
        mesh: The device mesh.
        table: The parameter table of the architecture.

    Returns:
        The partition spec.

    Raises:
        InputError: The leaf is not a scalar, and is not in the table.
    """
    ndim = len(leaf.shape)
    axis = table.mesh_axis(path) if ndim else None
    if axis is None or model_size(mesh) == 1:
        return PartitionSpec()
    return PartitionSpec(*("model" if index == axis % ndim else None for index in range(ndim)))


def specs(tree: Any, mesh: Mesh, table: ParameterTable) -> Any:
    """Return the partition spec of every leaf of a tree of arrays or shapes; see `spec`."""

    def spec_of(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
        return spec(path, leaf, mesh, table)

    return jax.tree_util.tree_map_with_path(spec_of, tree)


def shardings(tree: Any, mesh: Mesh, table: ParameterTable) -> Any:
    """Return the sharding of every leaf of a tree of arrays or shapes."""

    def sharding_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, spec(path, leaf, mesh, table))

    return jax.tree_util.tree_map_with_path(sharding_of, tree)


def check_shardable(params: Any, mesh: Mesh, table: ParameterTable) -> None:
    """Check that the axis `model` divides every sharded axis of the parameters.

    Args:
        params: A tree of arrays or shapes.
        mesh: The device mesh.
        table: The parameter table of the architecture.

    Raises:
        InputError: A parameter cannot be sharded evenly.
    """
    size = model_size(mesh)
    for path, leaf in tree_leaves_with_path(params):  # pyright: ignore[reportUnknownVariableType]
        for axis, name in enumerate(spec(path, leaf, mesh, table)):  # pyright: ignore[reportUnknownArgumentType]
            if name and leaf.shape[axis] % size:
                nearest = max(n for n in range(1, size + 1) if leaf.shape[axis] % n == 0)
                parameter = keystr(path, simple=True, separator="/")
                condition = f"a divisor of {leaf.shape[axis]}, the size of axis {axis} of {parameter}"
                raise out_of_range("mesh.model", size, condition, f"use {nearest}")


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Return a global batch on the mesh, assembled from the rows of each process."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value)  # pyright: ignore[reportUnknownMemberType]
        for key, value in batch.items()
    }


def place_replicated(tree: Any, mesh: Mesh) -> Any:
    """Return a tree of host arrays or arrays on this mesh, replicated on every device."""
    if model_size(mesh) > 1 and any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
        # A compiled program gathers the shards of other processes, which `device_put` cannot access.
        gather = jax.jit(_identity, out_shardings=replicated(mesh))  # pyright: ignore[reportUnknownMemberType]
        return gather(tree)  # pyright: ignore[reportUnknownVariableType]
    return jax.device_put(tree, replicated(mesh))  # pyright: ignore[reportUnknownMemberType]


def _identity(tree: Any) -> Any:
    # A module-level function, so that the program is compiled only once.
    return tree


def check_divisible(key: str, batch_size: int, mesh: Mesh, rows: int = 1) -> None:
    """Check that a batch can be sharded evenly.

    Args:
        key: The configuration key of the batch size, for the error.
        batch_size: The global batch size.
        mesh: The device mesh.
        rows: The number that must divide the rows of each device, such as the number of micro-batches.

    Raises:
        InputError: `batch_size` is not a positive multiple of the number of devices times `rows`. The message names
            the nearest valid size.
    """
    multiple = mesh.size * rows
    if batch_size < 1 or batch_size % multiple:
        nearest = max(1, round(batch_size / multiple)) * multiple
        factors = f"{mesh.size} devices" if rows == 1 else f"{mesh.size} devices x {rows} rows"
        raise out_of_range(key, batch_size, f"a positive multiple of {multiple} ({factors})", f"use {nearest}")


def as_replicated(tree: Any, mesh: Mesh) -> Any:
    """Return the shapes and dtypes of a tree, with the sharding that replicates each leaf."""

    def sharding_of(_: Any) -> NamedSharding:
        return replicated(mesh)

    return as_sharded(tree, jax.tree.map(sharding_of, tree))


def as_sharded(tree: Any, shardings: Any) -> Any:
    """Return the shapes and dtypes of a tree, with the shardings of a tree of the same structure."""

    def abstract(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(abstract, tree, shardings)
