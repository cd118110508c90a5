"""Killed and resumed runs are bit-for-bit equal to an uninterrupted run; `kills.py` repeats this more often."""

import random
import signal
import socket

import pytest

from tests.training import kills


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The results of an uninterrupted run."""
    run = tmp_path_factory.mktemp("reference") / "run"
    kills.finish(kills.start(run))
    return kills.read_results(run)


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGKILL, "saving"), (signal.SIGTERM, "evaluation"), (signal.SIGINT, "step")]
)
@pytest.mark.slow
def test_killed_run_equals_uninterrupted_run(reference, tmp_path, number, moment):
    # A run may finish before it can be killed; then try again.
    resumed = next(
        filter(None, (kills.kill(tmp_path / str(n), moment, number, random.Random(n)) for n in range(3))), None
    )
    assert resumed, "three runs finished before they were killed"
    run = max(tmp_path.iterdir(), key=lambda path: int(path.name))
    assert kills.read_results(run) == reference


@pytest.mark.slow
def test_second_start_of_a_running_run_changes_nothing(tmp_path):
    run = tmp_path / "run"
    first = kills.start(run)
    kills.wait_until(lambda: (run / "checkpoints" / "5").is_dir(), first)
    second = kills.start(run)
    output, _ = second.communicate(timeout=120)
    is_running = first.poll() is None
    kills.finish(first)
    assert is_running, "the first run finished before the second one had started"
    assert second.returncode == 2
    line = output.splitlines()[-1]
    assert line.startswith(f"error: {run}: in use by process {first.pid} on {socket.gethostname()} since 20"), output
    assert line.endswith("wait until it has ended, or set --config.workdir=PATH to another directory")
    assert not (run / ".lock").exists()
