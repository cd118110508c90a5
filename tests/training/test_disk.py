"""A disk that is full: one line, and the last good checkpoint as it was. Needs the right to mount one."""

import subprocess

import pytest

from tcvit_jax.checkpoint import load
from tests.training.kills import finish, start


@pytest.fixture
def small_disk(tmp_path):
    """A file system of four megabytes, in memory: one checkpoint fits, and two do not."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_where_there_is_room(small_disk):
    settings = ("--config.model.embed_dim=64", "--config.epochs=1", "--config.eval_batch_size=64")
    process = start(small_disk / "run", *settings)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    last = output.splitlines()[-1]
    folder = small_disk / "run" / "checkpoints"
    assert last.startswith(
        f"error: cannot save step 10 in '{folder}': No space left on device; the last good checkpoint is of step 5"
    )
    assert "Traceback" not in output
    assert load(small_disk / "run")[2]["step"] == 5
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert "continued after step 5" in finish(start(small_disk / "run", *settings))
