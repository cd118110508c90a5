"""Tests of the import of `tcvit_jax.data`."""

import subprocess
import sys

HEAVY_PACKAGES = ("jax", "flax", "grain", "sklearn", "tensorflow", "tensorflow_datasets")


def test_import_loads_no_heavy_packages() -> None:
    code = f"import sys, tcvit_jax.data; print([name for name in {HEAVY_PACKAGES} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
