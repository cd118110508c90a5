"""Before the first computation: the processes that train together, and where compiled programs are kept."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import jax
from jax.experimental.compilation_cache import compilation_cache

from tcvit_jax.command import USAGE_ERROR
from tcvit_jax.errors import InputError, first_line, unknown
from tcvit_jax.training.preemption import Preempted

MODES = ("auto", "on", "off")
# What says that this process is one of several: addresses given by hand, Slurm, Open MPI, TPU pods.
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# What a failed exchange calls itself, on CPUs, GPUs and TPUs.
_EXCHANGE = ("Gloo", "gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "Barrier", "onnection")
# Seconds until the others learn that a process is gone, when no failed exchange tells them.
_HEARTBEAT = 30


def join(mode: str = "auto") -> None:
    """Join the other processes of this run, before JAX is first used.

    Args:
        mode: `"on"`, `"off"`, or `"auto"`: on where the environment says that there are others. By hand that is
            `JAX_COORDINATOR_ADDRESS=HOST:PORT JAX_NUM_PROCESSES=N JAX_PROCESS_ID=K`; Slurm, Open MPI and TPU pods say
            it themselves.

    Raises:
        InputError: an unknown mode, variables that do not fit each other, or a coordinator that cannot be reached.
    """
    if mode not in MODES:
        raise unknown("--distributed", mode, MODES)
    if mode == "off" or (mode == "auto" and not _others()):
        return
    given = {name: os.environ[name] for name in _BY_HAND if name in os.environ}
    if given and len(given) < len(_BY_HAND):
        missing = next(name for name in _BY_HAND if name not in given)
        raise InputError(f"{next(iter(given))} is set and {missing} is not: set all of {', '.join(_BY_HAND)}, or none")
    try:
        if given:
            address, count, index = given.values()
            jax.distributed.initialize(
                address, _whole(_BY_HAND[1], count), _whole(_BY_HAND[2], index), heartbeat_timeout_seconds=_HEARTBEAT
            )
        else:
            jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--distributed={mode}: the processes cannot be joined: {first_line(error)} (one that is alone needs "
            "--distributed=off)"
        ) from error


def _others() -> bool:
    environment = os.environ
    return (
        any(name in environment for name in _BY_HAND)
        # Of a step that srun began, and not of the shell that it is typed into.
        or ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1)
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or _on_tpu()
    )


def _on_tpu() -> bool:
    """Whether this is a TPU VM, of which there may be others: JAX asks the machine, and one alone is joined too."""
    chips = any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    asked = os.environ.get("JAX_PLATFORMS") or "tpu"
    return chips and "tpu" in asked and importlib.util.find_spec("libtpu") is not None


def _whole(name: str, text: str) -> int:
    if not text.isdigit():
        raise InputError(f"{name}={text!r} is not a whole number")
    return int(text)


@contextmanager
def together(mode: str = "auto") -> Generator[None]:
    """Join the other processes (see `join`) for what happens inside; one that fails ends at once.

    An orderly end would wait for the others, and they for this one.

    Raises:
        InputError: as `join`; and, where this process is alone, whatever is raised inside.
    """
    try:
        join(mode)
        yield
    except InputError as error:
        if _is_one_of_several():
            _leave(USAGE_ERROR, f"error: {error}")
        raise
    except Preempted:
        # All processes end here, each in good order.
        raise
    except Exception as error:
        failed = cast("type[Exception]", jax.errors.JaxRuntimeError)  # pyright: ignore[reportUnknownMemberType]
        if isinstance(error, failed) and any(word in str(error) for word in _EXCHANGE):
            text = (
                "error: an exchange with another process failed, which may be gone: "
                f"{first_line(error)}; the same command continues from the last checkpoint"
            )
        else:
            text = "".join(traceback.format_exception(error)).rstrip()
        if _is_one_of_several():
            _leave(1, text)
        raise


def _is_one_of_several() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1  # pyright: ignore[reportUnknownMemberType]


def _leave(status: int, text: str) -> None:
    """End this process now, with `text` on standard error."""
    print(text, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def enable_compilation_cache(directory: Path) -> None:
    """Keep programs that take more than a second to compile in `directory`, for the next start of the run."""
    jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))  # pyright: ignore[reportUnknownMemberType]
    # Asked at the first compilation whether there is a place to keep it, JAX remembers that there was none.
    compilation_cache.reset_cache()
