"""Errors of devices and of memory, told apart from errors of files and of the program."""

from __future__ import annotations

import os
import re
import sys

from tcvit_jax.errors import InputError, first_line, invalid

FREE_MEMORY = "free memory, or use a device or a machine with more"
# Failures of a device and of its libraries, in messages of JAX and of its runtime.
_DEVICE_FAILURE = re.compile(
    r"CUDA_ERROR|CUDNN_STATUS|CUBLAS_STATUS|CUSOLVER_STATUS|hipError|DNN library initialization failed|No visible GPU"
    r"|no supported devices found|Unable to initialize backend|Unknown backend"
)


def device_error(error: BaseException, memory_hint: str = FREE_MEMORY) -> InputError | None:
    """Return the error to report for an exception that a device or a lack of memory caused.

    Args:
        error: The exception, with its traceback.
        memory_hint: What to reduce if there is not enough memory.

    Returns:
        The error in one line, or None if the exception has another cause.
    """
    text = str(error)
    if isinstance(error, MemoryError):
        return invalid("memory of this machine", f"out of memory{_detail(text)}", memory_hint)
    if isinstance(error, ValueError) and _origin(error) == "jax._src.config":
        return invalid("environment of JAX", first_line(error), "correct or unset the variable")
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    if "RESOURCE_EXHAUSTED" in text:
        return invalid("memory of the device", f"out of memory{_detail(text)}", memory_hint)
    if _DEVICE_FAILURE.search(text):
        return _unavailable(text)
    # For a GPU that is missing, JAX raises an assertion without a text, and may remove the frame that raised it.
    if not text and "jax" in sys.modules:
        try:
            sys.modules["jax"].devices()
        except Exception as failure:
            return _unavailable(str(failure))
    return None


def _unavailable(text: str) -> InputError:
    """Return the error for devices that cannot be used, from the message of JAX."""
    platforms = os.environ.get("JAX_PLATFORMS")
    # JAX appends advice in parentheses, which is not always right.
    lines = re.sub(r" \((?:set JAX_PLATFORMS|you may need).*\)", "", text, flags=re.DOTALL).strip().splitlines()
    problem = lines[0].rstrip(".") if lines else "no device of this platform found"
    if platforms:
        subject, hint = f"JAX_PLATFORMS={platforms!r}", "unset it to use the devices of this machine"
        extras = [extra for extra in ("cuda", "tpu") if extra in platforms]
        hint += f", or install jax[{extras[0]}]" if extras else ""
    else:
        is_cpu = "backend 'cpu'" in problem
        subject, hint = "device", "check XLA_FLAGS" if is_cpu else "set JAX_PLATFORMS=cpu to use the CPU"
    return invalid(subject, f"device cannot be used: {problem}", hint)


def _origin(error: BaseException) -> str:
    """Return the module that raised an exception, or an empty string."""
    trace, module = error.__traceback__, ""
    while trace is not None:
        module, trace = str(trace.tb_frame.f_globals.get("__name__", "")), trace.tb_next
    return module


def _detail(text: str) -> str:
    """Return the first line of the runtime's message, without its status code, to append to another text."""
    lines = text.replace("RESOURCE_EXHAUSTED:", "").strip().splitlines()
    return f" ({lines[0].strip().rstrip('.')})" if lines else ""
