"""A full disk: a one-line error that leaves the latest complete checkpoint intact. Requires permission to mount."""

import subprocess

import pytest

from tcvit_jax.checkpoint import load
from tests.training.kills import finish, start


@pytest.fixture
def small_disk(tmp_path):
    """An in-memory file system of four megabytes, which has space for one checkpoint but not for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if result.returncode:
        pytest.skip("requires permission to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_run_resumes_after_a_full_disk(small_disk):
    settings = ("--config.model.embed_dim=64", "--config.epochs=1", "--config.eval_batch_size=64")
    process = start(small_disk / "run", *settings)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    last = output.splitlines()[-1]
    folder = small_disk / "run" / "checkpoints"
    assert last.startswith(
        f"error: {folder}: cannot save step 10: No space left on device; the latest complete checkpoint is step 5"
    )
    assert "Traceback" not in output
    assert load(small_disk / "run")[2]["step"] == 5
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert "resumed after step 5" in finish(start(small_disk / "run", *settings))
