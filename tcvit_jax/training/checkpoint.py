"""Checkpoints of a run: variables, their moving averages, the optimizer state and `meta` as separate Orbax items."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp  # pyright: ignore[reportMissingTypeStubs]
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from orbax.checkpoint.path import atomicity  # pyright: ignore[reportMissingTypeStubs]

from tcvit_jax import atomic, manifest, sharding
from tcvit_jax.checkpoint import (
    CHECKPOINTS_DIR,
    EMA,
    HAS_MANIFEST,
    META,
    VARIABLES,
    check_meta,
    find_damage,
    read_errors,
    step_folders,
)  # fmt: skip
from tcvit_jax.errors import InputError, cannot_read, invalid
from tcvit_jax.training.step import TrainState

_OPT_STATE = "opt_state"


class _VerifiedPath(atomicity.AtomicRenameTemporaryPath):
    """The temporary directory of a checkpoint, which gets its manifest before its name says that it is complete."""

    async def finalize(self) -> None:
        """Complete the directory and rename it. Orbax calls this on one process, when all have written their files."""
        final = self._final_path
        if atomicity.TMP_DIR_SUFFIX in final.parent.name:
            # An item; its checkpoint has the manifest.
            await super().finalize()
            return
        # Orbax writes the last files and renames at once, so let it rename to another temporary name.
        self._final_path = draft = final.with_name(f"{final.name}{atomicity.TMP_DIR_SUFFIX}-draft")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            await super().finalize()
        finally:
            self._final_path = final
        manifest.write(Path(draft))
        os.rename(draft, final)


class Checkpoints:
    """The two newest checkpoints of a run, written in the background; each is either complete or absent.

    The checkpoints of the directory are verified first. If one of them is damaged and another one is not, the damaged
    one is renamed, so that the run resumes from the other one.

    As a context manager, it waits on exit until the last checkpoint is on disk.

    Args:
        workdir: The directory of the run. `workdir/checkpoints` is created if it does not exist.

    Attributes:
        notices: One line for each damaged checkpoint, on the first process.

    Raises:
        InputError: All checkpoints are damaged.
    """

    def __init__(self, workdir: Path) -> None:
        self._root = (workdir / CHECKPOINTS_DIR).absolute()
        # Before the manager reads the directory, on all processes.
        self.notices = _on_first_process(lambda: _set_damaged_aside(self._root), self._root)
        policy = ocp.checkpoint_managers.LatestN(2)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, enable_async_checkpointing=True, cleanup_tmp_directories=True,
            temporary_path_class=_VerifiedPath,
        )  # fmt: skip
        # The filter is never removed: Orbax's threads may still log after the run has ended.
        logging.getLogger("absl").addFilter(_is_not_from_orbax)
        self._manager = ocp.CheckpointManager(self._root, options=options)
        self._saving_step: int | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            with self._save_errors():
                self._manager.close()
        else:
            # The first exception is the one to report.
            with suppress(Exception):
                self._manager.close()

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Start to write a checkpoint, unless that step is saved or being saved already.

        Args:
            step: The number of steps taken.
            state: The training state.
            meta: The metadata of the checkpoint, as JSON values.

        Raises:
            InputError: This checkpoint or the one before cannot be written. The newest complete one is kept.
        """
        if step in (self._saving_step, self.latest_step()):
            return
        with self._save_errors():
            # Wait for the previous save first, so that an error names the step that failed.
            self._manager.wait_until_finished()
            self._saving_step = step
            self._check_disk_space(state)
            self._manager.save(
                step,
                # The loop decides when to save. Otherwise Orbax would check for preemption as well, and count sync
                # points by step, in conflict with the count of `PreemptionWatcher`.
                force=True,
                args=ocp.args.Composite(
                    **{
                        VARIABLES: ocp.args.StandardSave(state.variables),
                        EMA: ocp.args.StandardSave(state.ema),
                        _OPT_STATE: ocp.args.StandardSave(state.opt_state),
                        META: ocp.args.JsonSave({**meta, HAS_MANIFEST: True}),
                    }
                ),
            )

    def wait(self) -> None:
        """Wait until all checkpoints are on disk.

        Raises:
            InputError: A checkpoint cannot be written.
        """
        with self._save_errors():
            self._manager.wait_until_finished()

    def _check_disk_space(self, state: TrainState) -> None:
        """Raise an `OSError` before a save that the disk has no space for; Orbax would fail in its threads.

        A checkpoint is larger than its arrays, so the size of the newest one counts as well.
        """
        arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        latest = self.latest_step()
        newest = 0 if latest is None else _allocated_bytes(self._root / str(latest))
        processes = jax.process_count()  # pyright: ignore[reportUnknownMemberType]
        if shutil.disk_usage(self._root).free < max(arrays, newest) / processes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def _save_errors(self) -> Generator[None]:
        """Convert an error of a save into an `InputError` that names the latest complete checkpoint."""
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError):  # pyright: ignore[reportUnknownMemberType]
            # Most likely a device or another process failed, and not the disk.
            raise
        except Exception as error:
            steps = step_folders(self._root)
            latest = (
                f"the latest complete checkpoint is step {steps[-1].name}" if steps else "no checkpoint is complete"
            )
            raise invalid(
                self._root, f"cannot save step {self._saving_step}: {atomic.reason(error)}",
                f"{latest}; rerun the same command to resume",
            ) from error  # fmt: skip

    def meta(self, step: int) -> dict[str, Any]:
        """Return the metadata of the checkpoint of a step.

        Raises:
            InputError: The metadata are not those of a checkpoint of this step.
        """
        folder = self._root / str(step)
        with read_errors(folder):
            items = self._manager.restore(step, args=ocp.args.Composite(**{META: ocp.args.JsonRestore()}))
        meta = check_meta(items[META], folder)
        if meta.get("step", step) != step:
            raise cannot_read(folder / META, f"expected step={step}, the name of its directory, got {meta['step']}")
        return meta

    def restore(self, step: int, abstract_state: TrainState, mesh: Mesh, table: sharding.ParameterTable) -> TrainState:
        """Restore the state of a step on a mesh, which may differ from the one it was saved on.

        Args:
            step: The step of the checkpoint.
            abstract_state: A state with the expected shapes and dtypes, as arrays or `jax.ShapeDtypeStruct`.
            mesh: The device mesh.
            table: The parameter table of the model.

        Raises:
            InputError: The checkpoint belongs to another model.
        """
        target = sharding.as_sharded(abstract_state, sharding.shardings(abstract_state, mesh, table))
        args = ocp.args.Composite(
            **{
                VARIABLES: ocp.args.StandardRestore(target.variables),
                EMA: ocp.args.StandardRestore(target.ema),
                _OPT_STATE: ocp.args.StandardRestore(target.opt_state),
            }
        )
        with read_errors(self._root / str(step)):
            items = self._manager.restore(step, args=args)
        count = sharding.place_replicated(np.asarray(step, np.int32), mesh)
        return TrainState(count, items[VARIABLES], items[EMA], items[_OPT_STATE])


def _set_damaged_aside(root: Path) -> list[str]:
    """Rename the damaged checkpoints in a directory of checkpoints, if at least one is intact.

    Returns:
        One line for each damaged checkpoint.

    Raises:
        InputError: All checkpoints are damaged, or one cannot be renamed.
    """
    problems = {folder: find_damage(folder) for folder in step_folders(root)}
    damaged = {folder: problem for folder, problem in problems.items() if problem is not None}
    if damaged and len(damaged) == len(problems):
        summary = ", ".join(f"{folder.name}/{problem}" for folder, problem in damaged.items())
        raise cannot_read(root, f"all checkpoints are damaged ({summary})", "remove the directory to start again")
    notices: list[str] = []
    for folder, problem in damaged.items():
        # Orbax refuses to save a step whose directory exists. This name is not one of a step.
        names = (folder.with_name(f"{folder.name}.damaged-{number}") for number in count(1))
        aside = next(path for path in names if not os.path.lexists(path))
        with atomic.write_errors(aside):
            folder.rename(aside)
        notices.append(f"checkpoint {folder} is damaged ({problem}): renamed to {aside.name}")
    return notices


def _on_first_process(function: Callable[[], list[str]], root: Path) -> list[str]:
    """Call a function on the first process only, and raise an error on all processes if it raises one.

    Returns:
        The result; an empty list on the other processes.

    Raises:
        InputError: The function raised an error. Only the first process has its message.
    """
    is_first = jax.process_index() == 0  # pyright: ignore[reportUnknownMemberType]
    result: list[str] = []
    error: InputError | None = None
    if is_first:
        try:
            result = function()
        except InputError as failure:
            error = failure
    if jax.process_count() > 1:  # pyright: ignore[reportUnknownMemberType]
        failed = multihost_utils.broadcast_one_to_all(np.asarray(error is not None))
        if failed and not is_first:
            error = cannot_read(root, "cannot be used", "see the error of the first process")
    if error is not None:
        raise error
    return result


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    """Drop the records of Orbax: it logs the tracebacks of its threads, and then raises the error that we report."""
    return "orbax" not in record.pathname


def _allocated_bytes(directory: Path) -> int:
    """Return the disk space allocated to the files of a directory, in bytes."""
    # In POSIX, `st_blocks` counts units of 512 bytes on every file system.
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*"))
