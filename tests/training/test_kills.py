"""Runs that are killed and continued end bit for bit as one that was not; `kills.py` does more of them."""

import random
import signal

import pytest

from tests.training import kills


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run leaves."""
    run = tmp_path_factory.mktemp("whole") / "run"
    kills.finish(kills.start(run))
    return kills.everything(run)


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGKILL, "saving"), (signal.SIGTERM, "evaluation")])
@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(whole, tmp_path, number, moment):
    # A run may end before the moment comes: then there was nothing to kill.
    found = next(
        filter(None, (kills.kill(tmp_path / str(n), moment, number, random.Random(n), last=60) for n in range(3))), None
    )
    assert found, "three runs ended before they were killed"
    run = max(tmp_path.iterdir(), key=lambda path: int(path.name))
    assert kills.everything(run) == whole
