"""Orbax checkpoints: `params`, `ema`, `opt_state` and `meta` as items of their own, so that each can be read alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from tcvit_jax import models, sharding
from tcvit_jax.errors import InputError, unknown
from tcvit_jax.models import ViT
from tcvit_jax.training.step import TrainState

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run: the newest two, written in the background, each whole or absent.

    A context manager: leaving it waits until the last one is on the disk.
    """

    def __init__(self, workdir: Path) -> None:
        """Open (and make) `workdir/checkpoints`."""
        keep = ocp.checkpoint_managers.LatestN(2)
        options = ocp.CheckpointManagerOptions(preservation_policy=keep, enable_async_checkpointing=True)
        self._root = (workdir / FOLDER).absolute()
        self._manager = ocp.CheckpointManager(self._root, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Write `state` after `step` steps, with `meta`, what it takes to use it (JSON)."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                ema=ocp.args.StandardSave(state.ema),
                opt_state=ocp.args.StandardSave(state.opt_state),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
        )

    def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
        """The state of a step, shaped as `like` (arrays or their shapes), on the mesh.

        Raises:
            InputError: the checkpoint is damaged, or of another model.
        """
        wanted = sharding.as_replicated(like, mesh)
        args = ocp.args.Composite(
            params=ocp.args.StandardRestore(wanted.params),
            ema=ocp.args.StandardRestore(wanted.ema),
            opt_state=ocp.args.StandardRestore(wanted.opt_state),
        )
        with _readable(self._root / str(step)):
            items = self._manager.restore(step, args=args)
        count = jax.device_put(jnp.asarray(step, jnp.int32), sharding.replicated(mesh))
        return TrainState(count, items["params"], items["ema"], items["opt_state"])


def load(directory: str | Path, weights: str = "ema") -> tuple[ViT, dict[str, Any], dict[str, Any]]:
    """Any checkpoint this project wrote, with nothing else needed.

    Args:
        directory: of a run, of its checkpoints, or of one of them; a run's newest is taken.
        weights: `"ema"`, the averaged parameters that evaluations report, or `"params"`.

    Returns:
        `(model, variables, meta)`: the module; `{"params": ...}` whole on every device; and how it was made: `step`,
        `seed`, `model`, `preprocessing`, `classes`, `config`.

    Raises:
        InputError: a directory that holds no checkpoint, or one that cannot be read.
    """
    if weights not in ("ema", "params"):
        raise unknown("weights", weights, ("ema", "params"))
    folder = _find(Path(directory)).absolute()
    with _readable(folder):
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            meta = reader.restore(folder / "meta")
        model = models.from_config(meta["model"])
        wanted = sharding.as_replicated(models.parameter_shapes(model), sharding.data_mesh())
        with ocp.StandardCheckpointer() as reader:
            params = reader.restore(folder / weights, wanted)
    return model, {"params": params}, meta


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
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
        steps = [path for path in root.glob("*") if path.name.isdigit() and (path / "meta").is_dir()]
        if steps:
            return max(steps, key=lambda path: int(path.name))
    if (directory / "meta").is_dir():
        return directory
    runs = sorted(str(p.parent) for p in directory.parent.glob(f"*/{FOLDER}")) if directory.parent.is_dir() else []
    near = f": there is one in {', '.join(runs[:5])}" if runs else ""
    raise InputError(f"no checkpoint in {str(directory)!r}{near}")
