"""Self-contained checkpoints: a model's variables as Orbax items, and the metadata that rebuilds the model."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from tcvit_jax import atomic, models, sharding
from tcvit_jax.errors import InputError, cannot_read, first_line, invalid, unknown
from tcvit_jax.models import ViT

# The directory of checkpoints in a run directory, and the items of each checkpoint.
CHECKPOINTS_DIR, META, VARIABLES, EMA = "checkpoints", "meta", "variables", "ema"
CHECKSUM = "checksum"


def load(directory: str | Path, weights: str | None = None) -> tuple[ViT, dict[str, Any], dict[str, Any]]:
    """Load a checkpoint of a run or a converted checkpoint.

    Args:
        directory: A run directory, its directory of checkpoints, or one checkpoint; of several, the newest is loaded.
        weights: `"ema"` for the moving averages, which evaluations of a run use, or `"variables"` for the trained or
            converted variables. By default the averages, if there are any.

    Returns:
        A tuple `(model, variables, meta)`: the module; `{"params": ...}` and, if the model has any, `"batch_stats"`,
        replicated on all devices; and the metadata: `model`, `preprocessing` and `classes`; for a run also `step`,
        `seed` and `config`; for a converted checkpoint also `provenance`.

    Raises:
        InputError: No checkpoint is found, or it cannot be read.
    """
    folder = _resolve(Path(directory)).absolute()
    items = [item for item in (EMA, VARIABLES) if (folder / item).is_dir()]
    if not items:
        raise cannot_read(folder, f"{VARIABLES} not found", "the checkpoint is incomplete")
    if weights is not None and weights not in items:
        raise invalid(directory, str(unknown("weights", weights, items)))
    meta = read_meta(directory)
    with read_errors(folder):
        model = models.from_config(meta["model"])
        target = sharding.as_replicated(models.variable_shapes(model), sharding.data_mesh())
        with ocp.StandardCheckpointer() as reader:
            variables = reader.restore(folder / (weights or items[0]), target)
        if CHECKSUM in meta and meta[CHECKSUM] != checksum(variables):
            raise cannot_read(folder, "the checksum of its variables does not match", "the checkpoint is damaged")
    return model, variables, meta


def read_meta(directory: str | Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint, as `load` returns it, without the variables.

    Args:
        directory: As for `load`.

    Returns:
        The metadata.

    Raises:
        InputError: No checkpoint is found, or it cannot be read.
    """
    folder = _resolve(Path(directory)).absolute()
    with read_errors(folder), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(folder / META)


def save(directory: str | Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """Write a checkpoint atomically, in the form that `load` reads.

    Args:
        directory: The directory, which must be empty if it exists.
        variables: The variables of the model, NumPy or JAX arrays.
        meta: The metadata: `model`, `preprocessing`, `classes` and any other values that JSON can encode.

    Returns:
        The `checksum` of the variables, which is added to `meta` and verified by `load`.

    Raises:
        InputError: The directory is not empty, or cannot be written.
    """
    directory, digest = Path(directory).absolute(), checksum(variables)
    check_empty(directory)
    with atomic.write(directory) as draft:
        draft.mkdir()
        # Compression doubles the memory in use and makes files of weights only 7 % smaller.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as writer:
            writer.save(draft / VARIABLES, args=ocp.args.PyTreeSave(dict(variables)))
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
            writer.save(draft / META, {**meta, CHECKSUM: digest})
    return digest


def checksum(variables: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all variables, as float32 and in the order of their paths."""
    digest = hashlib.sha256()
    for path, value in sorted(traverse_util.flatten_dict(dict(variables), sep=".").items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(np.asarray(value, np.float32)).data)
    return digest.hexdigest()


def check_empty(directory: Path) -> None:
    """Raise an `InputError` if `directory` exists and is not an empty directory."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise invalid(directory, "already exists", "choose another directory, or remove it")


@contextmanager
def read_errors(folder: Path) -> Generator[None]:
    """Convert any exception of the block to an `InputError` that names the checkpoint.

    Orbax and TensorStore raise various types for a damaged checkpoint.

    Args:
        folder: The checkpoint.

    Yields:
        None.

    Raises:
        InputError: The block failed. An `InputError` of the block is raised unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise cannot_read(folder, f"checkpoint cannot be read: {first_line(error)}") from error


def _resolve(directory: Path) -> Path:
    """Return `directory` if it is a checkpoint, or the newest checkpoint in it."""
    for root in (directory / CHECKPOINTS_DIR, directory):
        steps = [path for path in root.glob("*") if path.name.isdigit() and (path / META).is_dir()]
        if steps:
            return max(steps, key=lambda path: int(path.name))
    if (directory / META).is_dir():
        return directory
    runs = (
        sorted(str(p.parent) for p in directory.parent.glob(f"*/{CHECKPOINTS_DIR}"))
        if directory.parent.is_dir()
        else []
    )
    raise cannot_read(
        directory, "checkpoint not found", f"runs with checkpoints: {', '.join(runs[:5])}" if runs else ""
    )
