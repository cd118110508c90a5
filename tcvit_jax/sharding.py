"""The device mesh: every device holds all parameters and its part of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tcvit_jax.errors import InputError


def data_mesh() -> Mesh:
    """One axis, `"data"`, over all devices of all processes."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis, the batch, cut over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch on the mesh, from the rows that this process read."""
    sharding = split(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def place_whole(tree: Any, mesh: Mesh) -> Any:
    """Every array of `tree` whole on every device."""
    return jax.device_put(tree, replicated(mesh))


def check_divisible(key: str, batch_size: int, mesh: Mesh) -> None:
    """Raise an `InputError` unless the devices can share the batch evenly; it names the nearest size that they can."""
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        nearest = max(1, round(batch_size / devices)) * devices
        raise InputError(f"{key}={batch_size} cannot be shared by {devices} devices: use {nearest}")


def as_replicated(tree: Any, mesh: Mesh) -> Any:
    """Abstract leaves of `tree` (shapes and dtypes), to be held whole by every device."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
