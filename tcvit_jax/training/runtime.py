"""Before the first computation: the processes that train together, and where compiled programs are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax

from tcvit_jax.errors import InputError, first_line, unknown

MODES = ("auto", "on", "off")
# What says that this process is one of several: addresses given by hand, Slurm, Open MPI, TPU pods.
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
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
        raise InputError(f"--distributed={mode}: the processes cannot be joined: {first_line(error)}") from error


def _others() -> bool:
    environment = os.environ
    return (
        any(name in environment for name in _BY_HAND)
        or int(environment.get("SLURM_NTASKS", "1")) > 1
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
    )


def _whole(name: str, text: str) -> int:
    if not text.isdigit():
        raise InputError(f"{name}={text!r} is not a whole number")
    return int(text)


def end_alone(error: Exception) -> None:
    """End this process with one line and status 1 where it is one of several, whose exchange has failed.

    At once, since an orderly end would wait for the others, of which one is gone.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    print(
        f"error: an exchange with another process failed, which may be gone: {first_line(error)}; the same command "
        "continues from the last checkpoint",
        file=sys.stderr,
    )
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def keep_compiled(directory: Path) -> None:
    """Keep programs that take more than a second to compile in `directory`, for the next start of the run."""
    jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
