"""Ctrl-C and closed terminals while a run trains, and Ctrl-C in the other commands, in real processes."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tcvit_jax.checkpoint import load
from tcvit_jax.training.preemption import PreemptionWatcher
from tests.compilation import FAST_COMPILATION
from tests.conftest import ROOT
from tests.training import kills
from tests.training.settings import TINY
from tests.training.test_processes import LONG, start_processes, wait_for_exit, wait_for_step_20

# Evaluations of 180 batches, so that a run can be interrupted in one.
SLOW_EVALUATION = ("--config.eval_batch_size=2", "--config.epochs=50", "--config.checkpoint_every=5")


def has_checkpoint(run):
    return any(path.name.isdigit() for path in (run / "checkpoints").glob("*"))


def drafts(directory):
    """Return the files of incomplete writes, other than locks that their dead holders left behind."""
    return [path for path in Path(directory).rglob(".partial-*")]


@pytest.mark.slow
def test_second_interrupt_ends_at_once_and_the_run_resumes(tmp_path):
    run = tmp_path / "run"
    process = kills.start(run, *SLOW_EVALUATION)
    kills.wait_until(lambda: has_checkpoint(run), process)
    # The notice follows at once, and the checkpoint later.
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    start_time = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (130, 75), output
    assert "Traceback" not in output, output
    assert time.monotonic() - start_time < 20
    step = load(run)[2]["step"]
    resumed = kills.start(run, *SLOW_EVALUATION)
    resumed_line = f"resumed after step {step}"
    lines = iter(resumed.stdout.readline, "")
    assert any(resumed_line in line for line in lines)
    resumed.kill()
    resumed.communicate()


@pytest.mark.parametrize("seconds", [0.0, 3.0])
@pytest.mark.slow
def test_interrupt_before_the_first_step_ends_soon(tmp_path, seconds):
    """While modules are imported, and while the model is built or compiled."""
    process = kills.start(tmp_path / "run", "--config.batch_size=1024")
    kills.wait_until(lambda: "jaxlib" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    start_time = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert time.monotonic() - start_time < 20
    assert "Traceback" not in output
    assert output.splitlines()[-1].startswith("interrupted")
    assert not has_checkpoint(tmp_path / "run")


@pytest.mark.slow
def test_interrupted_processes_save_one_checkpoint(tmp_path):
    """Of several processes, as of one that receives `SIGTERM`."""
    run = tmp_path / "run"
    processes = start_processes(run, *LONG, "--config.checkpoint_every=1000")
    wait_for_step_20(run, processes)
    # A terminal sends the signal to all of them.
    for process in processes:
        process.send_signal(signal.SIGINT)
    codes, outputs = wait_for_exit(processes)
    assert codes == [75, 75], outputs
    messages = {line for output in outputs for line in output.splitlines() if "saved after step" in line}
    assert len(messages) == 1
    assert f"saved after step {load(run)[2]['step']}" in messages.pop()


# Makes the standard input the controlling terminal of a new session, as in a terminal window.
IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_to_a_closed_terminal_is_discarded(name, monkeypatch):
    """Before the signal arrives that says so."""
    terminal, run_side = os.openpty()
    with open(run_side, "w") as stream:
        monkeypatch.setattr(sys, name, stream)
        with PreemptionWatcher():
            print("before", file=getattr(sys, name))
            assert os.read(terminal, 100) == b"before\r\n"
            os.close(terminal)
            print("after", file=getattr(sys, name))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            print("after", file=getattr(sys, name), flush=True)
        # The text remains in the buffer of the stream, which would try again when it is closed.
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), run_side)


@pytest.mark.slow
def test_run_is_saved_if_its_terminal_is_closed(tmp_path):
    run = tmp_path / "run"
    settings = [*kills.SETTINGS, *SLOW_EVALUATION, kills.WORKERS]
    train = [sys.executable, "train.py", "--config", kills.CONFIG, *settings]
    terminal, run_side = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *train, f"--config.workdir={run}"], cwd=ROOT, start_new_session=True,
        stdin=run_side, stdout=run_side, stderr=run_side, env={**os.environ, "XLA_FLAGS": FAST_COMPILATION},
    )  # fmt: skip
    os.close(run_side)
    os.set_blocking(terminal, False)

    def is_saved():
        # A full terminal would block the run.
        with suppress(BlockingIOError):
            os.read(terminal, 2**16)
        return has_checkpoint(run)

    kills.wait_until(is_saved, process)
    os.close(terminal)
    assert process.wait(timeout=60) == 75
    assert load(run)[2]["step"] >= 5


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "finished"
    kills.finish(kills.start(run, *TINY))
    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval.py", "--checkpoint", "RUN", "--config.eval_batch_size=1"),
        ("-m", "tcvit_jax.benchmark", "--checkpoint", "RUN", "--macs-fraction=0.8", "--rounds=100000", "--out", "OUT"),
        ("-m", "tcvit_jax.convert", "RUN", "--out", "OUT/w.safetensors"),
    ],
)
@pytest.mark.parametrize("seconds", [0.2, 2.0])
@pytest.mark.slow
def test_interrupted_command_is_one_line_and_status_130(finished_run, tmp_path, arguments, seconds):
    replaced = [each.replace("RUN", str(finished_run)).replace("OUT", str(tmp_path / "out")) for each in arguments]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *replaced], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "XLA_FLAGS": FAST_COMPILATION},
    )  # fmt: skip
    # All of them import JAX after the command has started.
    kills.wait_until(lambda: "jaxlib" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # A conversion may have ended before.
    if not (tmp_path / "out" / "w.safetensors").exists():
        assert (process.returncode, errors) == (130, "interrupted\n")
        assert drafts(tmp_path) == []
