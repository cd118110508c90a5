"""Every test sees eight devices, as a host of a pod does; JAX reads the flag once, before its first use."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Of the same optimised operations, LLVM makes machine code with less effort: a fifth of the suite's time. What runs in a
# process of its own, as users run it, takes all of it.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# The processes of a session share what they compile: the first one makes the directory, and the others inherit it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="tcvit_jax-cache-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import hypothesis
import jaxtyping
import pytest

from tests import shapes

# Before the first import of the package.
jaxtyping.install_import_hook("tcvit_jax", f"{shapes.__name__}.check")

# Compilation makes the first example slow, and shared machines make any of them slow.
hypothesis.settings.register_profile("tcvit_jax", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tcvit_jax")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def torch():
    """The optional torch, which pickled weights are read with; a test that needs it is skipped without."""
    return pytest.importorskip("torch", reason="needs the optional torch")


@pytest.fixture(scope="session")
def timm(torch):
    """The optional timm, which models and photographs are compared with; a test that needs it is skipped without."""
    return pytest.importorskip("timm", reason="compares with the optional torch and timm")


@pytest.fixture
def script():
    """Run one of the repository's scripts, or a module of the package as one, with warnings as errors.

    In a process of its own, on one device.
    """
    import subprocess

    def run(name: str, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "XLA_FLAGS": "", "COLUMNS": "400", "PYTHONPATH": str(ROOT), **variables}
        target = [str(ROOT / name)] if name.endswith(".py") else ["-m", name]
        command = [sys.executable, "-W", "error", *target, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd or ROOT, timeout=300)

    return run
