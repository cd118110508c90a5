"""Flags of XLA that shorten the compilation of tests and of the processes that they start."""

import os
import subprocess
import sys

# LLVM's lowest optimization level, and no fusion emitters, whose kernels take long to compile and are fast. Together they
# divide the time to compile a model by five. The optimizations of XLA itself do not change.
_FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")


def _is_supported(flag: str) -> bool:
    """Return whether the installed jaxlib has a flag. It aborts a process that sets another one."""
    command = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.make_cpu_client()"]
    return subprocess.run(command, env={**os.environ, "XLA_FLAGS": flag}, capture_output=True).returncode == 0


# Results are comparable between processes with the same flags.
FAST_COMPILATION = " ".join(flag for flag in _FLAGS if _is_supported(flag))
