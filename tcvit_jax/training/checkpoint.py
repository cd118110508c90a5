"""The checkpoints of a run: variables, their averages, the optimizer's state and `meta` as items of their own."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp  # pyright: ignore[reportMissingTypeStubs]
from jax.sharding import Mesh

from tcvit_jax import atomic, sharding
from tcvit_jax.checkpoint import CHECKPOINTS_DIR, EMA, META, VARIABLES, read_errors
from tcvit_jax.errors import InputError
from tcvit_jax.training.step import TrainState

_OPTIMISER = "opt_state"


class Checkpoints:
    """The checkpoints of one run: the newest two, written in the background, each whole or absent.

    A context manager: leaving it waits until the last one is on the disk.
    """

    def __init__(self, workdir: Path) -> None:
        """Open (and make) `workdir/checkpoints`."""
        keep = ocp.checkpoint_managers.LatestN(2)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        # For good: its threads may still be at it when the run ends.
        logging.getLogger("absl").addFilter(_not_of_orbax)
        self._root = (workdir / CHECKPOINTS_DIR).absolute()
        self._manager = ocp.CheckpointManager(self._root, options=options)
        self._begun: int | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            with self._written():
                self._manager.close()
        else:
            # What went wrong first is what the user should read.
            with suppress(Exception):
                self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Write `state` after `step` steps, with `meta`, what it takes to use it (JSON), unless that has begun already.

        Raises:
            InputError: the one before, or this one, cannot be written; the newest complete one is still there.
        """
        if step in (self._begun, self.latest()):
            return
        with self._written():
            # Those before are on the disk when the next one begins: an error is of the one that is named.
            self._manager.wait_until_finished()
            self._begun = step
            self._check_room(state)
            self._manager.save(
                step,
                # When to save is decided here. Orbax, asked, would look for a watcher of preemption as well, and count
                # the points at which the processes agree on one by steps, where `PreemptionWatcher` counts its own.
                force=True,
                args=ocp.args.Composite(
                    **{
                        VARIABLES: ocp.args.StandardSave(state.variables),
                        EMA: ocp.args.StandardSave(state.ema),
                        _OPTIMISER: ocp.args.StandardSave(state.opt_state),
                        META: ocp.args.JsonSave(dict(meta)),
                    }
                ),
            )

    def wait(self) -> None:
        """Until everything that was saved is on the disk.

        Raises:
            InputError: it cannot be written.
        """
        with self._written():
            self._manager.wait_until_finished()

    def _check_room(self, state: TrainState) -> None:
        """Raise before anything is written, where that can be known: Orbax's threads fail with many words.

        A checkpoint takes more than its arrays: what the newest one takes says how much more.
        """
        arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        latest = self.latest()
        newest = 0 if latest is None else _allocated(self._root / str(latest))
        processes = jax.process_count()  # pyright: ignore[reportUnknownMemberType]
        if shutil.disk_usage(self._root).free < max(arrays, newest) / processes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def _written(self) -> Generator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # pyright: ignore[reportUnknownMemberType]
            # Of another process, most likely, and not of the disk.
            raise
        except Exception as error:
            good = [int(path.name) for path in self._root.glob("*") if path.name.isdigit()]
            last = f"the last good checkpoint is of step {max(good)}" if good else "there is no checkpoint yet"
            raise InputError(
                f"cannot save step {self._begun} in {str(self._root)!r}: {atomic.reason(error)}; {last}, "
                "and the same command continues from there"
            ) from error

    def meta(self, step: int) -> dict[str, Any]:
        """What the checkpoint of a step says of itself."""
        with read_errors(self._root / str(step)):
            return self._manager.restore(step, args=ocp.args.Composite(**{META: ocp.args.JsonRestore()}))[META]

    def restore(self, step: int, like: TrainState, mesh: Mesh, table: sharding.ParameterTable) -> TrainState:
        """The state of a step, shaped as `like` (arrays or their shapes), on the mesh, which may be another one.

        `table` is the parameter table of the model.

        Raises:
            InputError: the checkpoint is damaged, or of another model.
        """
        wanted = sharding.as_sharded(like, sharding.shardings(like, mesh, table))
        args = ocp.args.Composite(
            **{
                VARIABLES: ocp.args.StandardRestore(wanted.variables),
                EMA: ocp.args.StandardRestore(wanted.ema),
                _OPTIMISER: ocp.args.StandardRestore(wanted.opt_state),
            }
        )
        with read_errors(self._root / str(step)):
            items = self._manager.restore(step, args=args)
        count = sharding.place_replicated(np.asarray(step, np.int32), mesh)
        return TrainState(count, items[VARIABLES], items[EMA], items[_OPTIMISER])


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax prints the traces of its threads, and then raises what we say in a line."""
    return "orbax" not in record.pathname


def _allocated(directory: Path) -> int:
    """The bytes that the files of a directory take on the disk."""
    # POSIX counts blocks of 512 bytes, whatever the file system's are.
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))
