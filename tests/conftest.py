"""Every test sees eight devices, as a host of a pod does; JAX reads the flag once, before its first use."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

# Of the same optimized operations, LLVM makes machine code with the least effort: half of the time that a model takes to
# compile. Processes of their own do so too; what `.ci/run` runs for itself compiles as a user's does.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import pytest

from tests import shapes

shapes.install()

# Compilation makes the first example slow, and shared machines make any of them slow.
hypothesis.settings.register_profile("tcvit_jax", deadline=None, print_blob=True, max_examples=20)
hypothesis.settings.load_profile("tcvit_jax")

ROOT = Path(__file__).parent.parent
COMPILED = pytest.StashKey[str]()


def pytest_configure(config):
    """Keep what JAX compiles in a directory of this session, unless the environment names one.

    Every operation is kept, however small: one compilation serves all workers. Set in the processes that run tests, and
    not in the environment, so that a process of its own finds nothing compiled.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    is_worker = hasattr(config, "workerinput")
    config.stash[COMPILED] = config.workerinput["compiled"] if is_worker else tempfile.mkdtemp(prefix="tcvit_jax-")
    if is_worker or not config.getoption("numprocesses", None):
        import jax

        jax.config.update("jax_compilation_cache_dir", config.stash[COMPILED])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Hand the directory to a worker of xdist."""
    node.workerinput["compiled"] = node.config.stash.get(COMPILED, "")


def pytest_unconfigure(config):
    """Remove the directory, once every worker has ended."""
    if COMPILED in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[COMPILED], ignore_errors=True)


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
        environment = {
            **os.environ,
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "COLUMNS": "400",
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        target = [str(ROOT / name)] if name.endswith(".py") else ["-m", name]
        command = [sys.executable, "-W", "error", *target, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd or ROOT, timeout=300)

    return run
