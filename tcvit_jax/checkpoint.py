"""Checkpoints that anybody can use: Orbax items of a model's variables, and beside them what it takes to use them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from tcvit_jax import models, sharding
from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models import ViT

# Where a run keeps its checkpoints, and the items of each.
FOLDER, META, VARIABLES, EMA = "checkpoints", "meta", "variables", "ema"


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
    if weights is not None and weights not in found:
        raise unknown(f"weights of {str(directory)!r}:", weights, found)
    with readable(folder):
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            meta = reader.restore(folder / META)
        model = models.from_config(meta["model"])
        wanted = sharding.as_replicated(models.variable_shapes(model), sharding.data_mesh())
        with ocp.StandardCheckpointer() as reader:
            variables = reader.restore(folder / (weights or found[0]), wanted)
    return model, variables, meta


def save(directory: str | Path, variables: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint of its own that `load` reads: all of it, or nothing.

    Args:
        directory: made here; it may be there if it is empty.
        variables: of the model, arrays of NumPy or JAX.
        meta: `model`, `preprocessing`, `classes` and what else should travel with them (JSON).

    Raises:
        InputError: the directory holds something, or cannot be written.
    """
    directory = Path(directory).absolute()
    check_vacant(directory)
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        with ocp.StandardCheckpointer() as writer:
            writer.save(partial / VARIABLES, dict(variables))
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
            writer.save(partial / META, dict(meta))
        os.replace(partial, directory)
    except OSError as error:
        raise InputError(f"cannot write {str(directory)!r}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_vacant(directory: Path) -> None:
    """Raise an `InputError` unless `directory` can be made, or is there and empty."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{str(directory)!r} is there already: choose another directory, or remove it")


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Says which checkpoint is damaged; Orbax and TensorStore raise many kinds for that."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"checkpoint {str(folder)!r} cannot be read: {reason[0]}") from error


def _find(directory: Path) -> Path:
    """The checkpoint that `directory` means: itself, or the newest of a run."""
    for root in (directory / FOLDER, directory):
        steps = [path for path in root.glob("*") if path.name.isdigit() and (path / META).is_dir()]
        if steps:
            return max(steps, key=lambda path: int(path.name))
    if (directory / META).is_dir():
        return directory
    runs = sorted(str(p.parent) for p in directory.parent.glob(f"*/{FOLDER}")) if directory.parent.is_dir() else []
    near = f": there is one in {', '.join(runs[:5])}" if runs else ""
    raise InputError(f"no checkpoint in {str(directory)!r}{near}")
