"""Tests of `tcvit_jax.data` as a whole: what importing it may cost."""

import subprocess
import sys

HEAVY = ("jax", "flax", "grain", "sklearn", "tensorflow", "tensorflow_datasets")


def test_importing_the_room_is_light() -> None:
    code = f"import sys, tcvit_jax.data; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
