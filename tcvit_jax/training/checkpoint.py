"""The checkpoints of a run: variables, their averages, the optimiser's state and `meta` as items of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from tcvit_jax import sharding
from tcvit_jax.checkpoint import EMA, FOLDER, META, VARIABLES, readable
from tcvit_jax.training.step import TrainState

_OPTIMISER = "opt_state"


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
                **{
                    VARIABLES: ocp.args.StandardSave(state.variables),
                    EMA: ocp.args.StandardSave(state.ema),
                    _OPTIMISER: ocp.args.StandardSave(state.opt_state),
                    META: ocp.args.JsonSave(dict(meta)),
                }
            ),
        )

    def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
        """The state of a step, shaped as `like` (arrays or their shapes), on the mesh.

        Raises:
            InputError: the checkpoint is damaged, or of another model.
        """
        wanted = sharding.as_replicated(like, mesh)
        args = ocp.args.Composite(
            **{
                VARIABLES: ocp.args.StandardRestore(wanted.variables),
                EMA: ocp.args.StandardRestore(wanted.ema),
                _OPTIMISER: ocp.args.StandardRestore(wanted.opt_state),
            }
        )
        with readable(self._root / str(step)):
            items = self._manager.restore(step, args=args)
        count = jax.device_put(jnp.asarray(step, jnp.int32), sharding.replicated(mesh))
        return TrainState(count, items[VARIABLES], items[EMA], items[_OPTIMISER])
