"""Shared fixtures. Tests run on eight simulated devices; JAX reads the flag once, before its first use."""

import collections
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.compilation import FAST_COMPILATION

# Subprocesses of tests use the flags too; the commands of `.ci/run` compile with the defaults.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {FAST_COMPILATION}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import pytest

from tests import shapes

shapes.install()

# No deadline: the first example compiles, and shared machines are slow.
hypothesis.settings.register_profile("tcvit_jax", deadline=None, print_blob=True, max_examples=20)
hypothesis.settings.load_profile("tcvit_jax")

ROOT = Path(__file__).parent.parent
CACHE_DIR = pytest.StashKey[str]()
# Tests with at most this many cases are never sampled.
SAMPLED_CASES = 16


def pytest_addoption(parser):
    parser.addoption(
        "--sample", type=int, default=1, metavar="N",
        help=f"of each test with more than {SAMPLED_CASES} cases, run every Nth case",
    )  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Apply `--sample`, after `-m` and `-k`."""
    cases = collections.defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    every = config.getoption("sample")
    # Each test begins at another case, so that tests of the same cases together run all of them.
    tests = [test for test in cases.values() if len(test) > SAMPLED_CASES]
    skipped = {item for start, test in enumerate(tests) for item in set(test) - set(test[start % every :: every])}
    config.hook.pytest_deselected(items=[item for item in items if item in skipped])
    items[:] = [item for item in items if item not in skipped]


def pytest_configure(config):
    """Use a compilation cache for this session, unless the environment names one.

    Every program is cached, however small, so that one compilation serves all workers. The cache is set in the processes
    that run tests and not in the environment, so that subprocesses of tests start without a cache.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    is_worker = hasattr(config, "workerinput")
    config.stash[CACHE_DIR] = config.workerinput["cache_dir"] if is_worker else tempfile.mkdtemp(prefix="tcvit_jax-")
    if is_worker or not config.getoption("numprocesses", None):
        import jax

        jax.config.update("jax_compilation_cache_dir", config.stash[CACHE_DIR])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Pass the cache directory to a worker of pytest-xdist."""
    node.workerinput["cache_dir"] = node.config.stash.get(CACHE_DIR, "")


def pytest_unconfigure(config):
    """Remove the cache directory after all workers have ended."""
    if CACHE_DIR in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[CACHE_DIR], ignore_errors=True)


@pytest.fixture(autouse=True)
def compilation_cache(pytestconfig):
    """Return to the cache of this session after a command that caches programs in the directory of its run."""
    yield
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR") or pytestconfig.stash[CACHE_DIR]
    if jax.config.jax_compilation_cache_dir != directory:
        jax.config.update("jax_compilation_cache_dir", directory)
        compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def torch():
    """The optional package torch, which reads pickled weights; tests that use it are skipped if it is missing."""
    return pytest.importorskip("torch", reason="requires torch")


@pytest.fixture(scope="session")
def timm(torch):
    """The optional package timm, a reference for models and images; tests that use it are skipped if it is missing."""
    return pytest.importorskip("timm", reason="requires torch and timm")


@pytest.fixture
def script():
    """Return a function that runs a script of the repository or a module of the package in a subprocess.

    The subprocess has one device, and warnings are errors.
    """
    import subprocess

    def run(name: str, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "XLA_FLAGS": FAST_COMPILATION,
            "COLUMNS": "400",
            "PYTHONPATH": str(ROOT),
            **variables,
        }
        target = [str(ROOT / name)] if name.endswith(".py") else ["-m", name]
        command = [sys.executable, "-W", "error", *target, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd or ROOT, timeout=300)

    return run
