"""Checkpoints that anybody can use: Orbax items of a model's variables, and beside them what it takes to use them."""

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
from tcvit_jax.errors import InputError, first_line, unknown
from tcvit_jax.models import ViT

# Where a run keeps its checkpoints, and the items of each.
CHECKPOINTS_DIR, META, VARIABLES, EMA = "checkpoints", "meta", "variables", "ema"
CHECKSUM = "checksum"


def load(directory: str | Path, weights: str | None = None) -> tuple[ViT, dict[str, Any], dict[str, Any]]:
    """Any checkpoint this project wrote, with nothing else needed.

    Args:
        directory: of a run, of its checkpoints, or of one of them (a run's newest is taken); or a converted model's.
        weights: `"ema"`, the averages that a run's evaluations report, or `"variables"`, what was trained or
            converted. By default the averages, where there are any.

    Returns:
        `(model, variables, meta)`: the module; its `{"params": ...}`, and `"batch_stats"` where it has any, whole on
        every device; and how it was made: `model`, `preprocessing`, `classes`; of a run `step`, `seed`, `config`; of
        a converted model `provenance`.

    Raises:
        InputError: a directory that holds no checkpoint, or one that cannot be read.
    """
    folder = _find(Path(directory)).absolute()
    found = [item for item in (EMA, VARIABLES) if (folder / item).is_dir()]
    if not found:
        raise InputError(f"checkpoint {str(folder)!r} cannot be read: it holds no {VARIABLES}")
    if weights is not None and weights not in found:
        raise unknown(f"weights of {str(directory)!r}:", weights, found)
    meta = read_meta(directory)
    with read_errors(folder):
        model = models.from_config(meta["model"])
        wanted = sharding.as_replicated(models.variable_shapes(model), sharding.data_mesh())
        with ocp.StandardCheckpointer() as reader:
            variables = reader.restore(folder / (weights or found[0]), wanted)
        if CHECKSUM in meta and meta[CHECKSUM] != checksum(variables):
            raise InputError(f"checkpoint {str(folder)!r} is damaged: its variables are not those that were written")
    return model, variables, meta


def read_meta(directory: str | Path) -> dict[str, Any]:
    """Return how the model of a checkpoint was made, as `load` does, without its variables.

    Raises:
        InputError: a directory that holds no checkpoint, or one that cannot be read.
    """
    folder = _find(Path(directory)).absolute()
    with read_errors(folder), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(folder / META)


def save(directory: str | Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """Write a checkpoint of its own that `load` reads: all of it, or nothing.

    Args:
        directory: made here; it may be there if it is empty.
        variables: of the model, arrays of NumPy or JAX.
        meta: `model`, `preprocessing`, `classes` and what else should travel with them (JSON).

    Returns:
        The `checksum` of the variables, which is kept in `meta` and compared when they are loaded.

    Raises:
        InputError: the directory holds something, or cannot be written.
    """
    directory, found = Path(directory).absolute(), checksum(variables)
    check_empty(directory)
    with atomic.write(directory) as draft:
        draft.mkdir()
        # Compression takes as much memory again, and 7 % off a file of weights.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as writer:
            writer.save(draft / VARIABLES, args=ocp.args.PyTreeSave(dict(variables)))
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
            writer.save(draft / META, {**meta, CHECKSUM: found})
    return found


def checksum(variables: Mapping[str, Any]) -> str:
    """SHA-256 of all variables as float32, in the order of their paths."""
    digest = hashlib.sha256()
    for path, value in sorted(traverse_util.flatten_dict(dict(variables), sep=".").items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(np.asarray(value, np.float32)).data)
    return digest.hexdigest()


def check_empty(directory: Path) -> None:
    """Raise an `InputError` unless `directory` can be made, or is there and empty."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{str(directory)!r} is there already: choose another directory, or remove it")


@contextmanager
def read_errors(folder: Path) -> Generator[None]:
    """Says which checkpoint is damaged; Orbax and TensorStore raise many kinds for that."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"checkpoint {str(folder)!r} cannot be read: {first_line(error)}") from error


def _find(directory: Path) -> Path:
    """The checkpoint that `directory` means: itself, or the newest of a run."""
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
    near = f": there is one in {', '.join(runs[:5])}" if runs else ""
    raise InputError(f"no checkpoint in {str(directory)!r}{near}")
