"""Setup before the first computation: the processes of a distributed run, and the compilation cache."""

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
from tcvit_jax.devices import FREE_MEMORY, device_error
from tcvit_jax.errors import InputError, first_line, invalid, out_of_range, requires, unknown
from tcvit_jax.interrupts import EXIT_STATUS as INTERRUPTED
from tcvit_jax.interrupts import exit_now
from tcvit_jax.training.preemption import Preempted

MODES = ("auto", "on", "off")
# The environment variables of a manual setup.
_JAX_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Substrings of the messages of failed communication on CPUs, GPUs and TPUs.
_COMMUNICATION_ERRORS = (
    "Gloo", "gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "Barrier", "onnection",
)  # fmt: skip
# Seconds until a dead process is noticed when no communication fails.
_HEARTBEAT_TIMEOUT = 30


def initialize_processes(mode: str = "auto") -> None:
    """Initialize `jax.distributed`, before the first use of JAX.

    Args:
        mode: `"on"`, `"off"`, or `"auto"`: on if the environment indicates other processes. A manual setup sets
            `JAX_COORDINATOR_ADDRESS=HOST:PORT JAX_NUM_PROCESSES=N JAX_PROCESS_ID=K`; Slurm, Open MPI and TPU pods are
            detected.

    Raises:
        InputError: The mode is unknown, the variables do not fit each other, or the coordinator cannot be reached.
    """
    if mode not in MODES:
        raise unknown("--distributed", mode, MODES)
    if mode == "off" or (mode == "auto" and not _has_other_processes()):
        return
    variables = {name: os.environ[name] for name in _JAX_VARIABLES if name in os.environ}
    if variables and len(variables) < len(_JAX_VARIABLES):
        missing = next(name for name in _JAX_VARIABLES if name not in variables)
        raise requires(next(iter(variables)), missing, f"set all of {', '.join(_JAX_VARIABLES)}, or none")
    try:
        if variables:
            address, count, index = variables.values()
            jax.distributed.initialize(
                address, _parse_integer(_JAX_VARIABLES[1], count), _parse_integer(_JAX_VARIABLES[2], index),
                heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            )  # fmt: skip
        else:
            jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise invalid(
            f"--distributed={mode}", f"cannot initialize jax.distributed: {first_line(error)}",
            "use --distributed=off for a single process",
        ) from error  # fmt: skip


def _has_other_processes() -> bool:
    environment = os.environ
    return (
        any(name in environment for name in _JAX_VARIABLES)
        # SLURM_NTASKS is also set in the shell of an allocation; a task of srun has a node list of its step.
        or ("SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1)
        or int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
        or _is_tpu_vm()
    )


def _is_tpu_vm() -> bool:
    """Return whether this is a TPU VM. JAX finds out whether it has other hosts; a single host is initialized too."""
    has_chips = any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    platforms = os.environ.get("JAX_PLATFORMS") or "tpu"
    return has_chips and "tpu" in platforms and importlib.util.find_spec("libtpu") is not None


def _parse_integer(name: str, text: str) -> int:
    if not text.isdigit():
        raise out_of_range(name, text, "a non-negative integer")
    return int(text)


@contextmanager
def distributed_processes(mode: str = "auto", memory_hint: str = FREE_MEMORY) -> Generator[None]:
    """Initialize the processes of a run, and exit this process at once if the block fails.

    A normal exit would wait for the other processes, and they for this one.

    Args:
        mode: As for `initialize_processes`.
        memory_hint: What to reduce if there is not enough memory.

    Raises:
        InputError: As `initialize_processes`. In a run of a single process, all exceptions of the block pass as well.
    """
    try:
        initialize_processes(mode)
        yield
    except InputError as error:
        if _has_several_processes():
            _exit_now(USAGE_ERROR, f"error: {error}")
        raise
    except Preempted:
        # All processes stop here and exit normally.
        raise
    except KeyboardInterrupt:
        if _has_several_processes():
            _exit_now(INTERRUPTED, "interrupted")
        raise
    except Exception as error:
        device_problem = device_error(error, memory_hint)
        # Without a device, the number of processes is not known.
        if device_problem is not None and jax.distributed.is_initialized():
            _exit_now(USAGE_ERROR, f"error: {device_problem}")
        runtime_error = cast("type[Exception]", jax.errors.JaxRuntimeError)  # pyright: ignore[reportUnknownMemberType]
        if isinstance(error, runtime_error) and any(text in str(error) for text in _COMMUNICATION_ERRORS):
            message = (
                f"error: communication with another process failed: {first_line(error)}; "
                "rerun the same command to resume from the latest checkpoint"
            )
        else:
            message = "".join(traceback.format_exception(error)).rstrip()
        if _has_several_processes():
            _exit_now(1, message)
        raise


def _has_several_processes() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1  # pyright: ignore[reportUnknownMemberType]


def _exit_now(status: int, message: str) -> None:
    """Exit without cleanup, with `message` on standard error."""
    print(message, file=sys.stderr)
    exit_now(status)


def enable_compilation_cache(directory: Path) -> None:
    """Cache programs that take more than a second to compile in `directory`, for the next start of the run."""
    jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))  # pyright: ignore[reportUnknownMemberType]
    # JAX checks for a cache directory at the first compilation only, and remembers that there was none.
    compilation_cache.reset_cache()
