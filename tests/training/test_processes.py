"""Runs with two processes over gloo: equal to a single process, one checkpoint, and no hang after a failure."""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tcvit_jax.checkpoint import load
from tests.compilation import FAST_COMPILATION
from tests.training.kills import finish, start, wait_until

# Without biases: the gradient of the keys' biases is a rounding error, which Adam turns into full-size updates.
SETTINGS = (
    "--config.model.qkv_bias=False", "--config.epochs=1", "--config.eval_batch_size=64", "--config.checkpoint_every=11",
    "--config.log_every=5",
)  # fmt: skip
LONG = ("--config.epochs=5", "--config.eval_batch_size=64", "--config.log_every=5", "--config.eval_every=5")


def start_processes(workdir, *arguments, process_arguments=((), ())):
    """Start two processes of one run, with common arguments and arguments per process."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start(
            workdir, *arguments, *process_arguments[k], JAX_COORDINATOR_ADDRESS=f"localhost:{port}", JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(k),
        )
        for k in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    """This process, on eight devices, loads the checkpoint of the two."""
    first, second = (finish(process) for process in start_processes(tmp_path / "two", *SETTINGS))
    assert "devices 2 x cpu" in first
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []
    for devices in (1, 2):
        run = tmp_path / f"one_{devices}"
        finish(start(run, *SETTINGS, XLA_FLAGS=f"--xla_force_host_platform_device_count={devices} {FAST_COMPILATION}"))
        for weights in ("variables", "ema"):
            _, two, meta = load(tmp_path / "two", weights)
            _, one, _ = load(run, weights)
            assert meta["step"] == 22
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), two, one)
        logs = [
            [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
            for path in (tmp_path / "two", run)
        ]
        assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
        assert logs[0][-1]["val_top1"] == logs[1][-1]["val_top1"]
        assert logs[0][-1]["val_examples"] == 359


def wait_for_step_20(workdir, processes):
    """Wait until a run has logged step 20."""
    metrics = workdir / "metrics.jsonl"
    wait_until(lambda: metrics.is_file() and metrics.read_text().count("\n") > 3, processes[0])


def wait_for_exit(processes):
    """Return the exit statuses and outputs of processes, which must exit within a minute."""
    start_time = time.monotonic()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert time.monotonic() - start_time < 60, outputs
    return [process.returncode for process in processes], outputs


@pytest.mark.parametrize("victim", [1, 0])
@pytest.mark.slow
def test_other_process_exits_after_one_is_killed(tmp_path, victim):
    processes = start_processes(tmp_path / "run", *LONG, "--config.checkpoint_every=1000")
    wait_for_step_20(tmp_path / "run", processes)
    processes[victim].kill()
    codes, outputs = wait_for_exit(processes)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] not in (0, 75), outputs
    if victim == 1:
        assert codes[0] == 1
        assert "error: communication with another process failed" in outputs[0].splitlines()[-1]


@pytest.mark.slow
def test_other_process_exits_after_one_has_an_input_error(tmp_path):
    """The process exits with its one-line error while the other is running, and the other exits as well."""
    first, second = start_processes(
        tmp_path / "run", *LONG, process_arguments=((), ("--config.distill.teacher=/nonexistent",))
    )
    codes, outputs = wait_for_exit([second, first])
    assert codes[0] == 2
    assert outputs[0].splitlines()[-1] == "error: distill.teacher: /nonexistent: checkpoint not found"
    assert codes[1] not in (0, 2, 75)


@pytest.mark.slow
def test_preempted_processes_save_one_checkpoint_and_one_process_resumes(tmp_path):
    # Saves after every step must not interfere with the sync points of the preemption watcher.
    run, settings = tmp_path / "run", (*LONG, "--config.checkpoint_every=1")
    processes = start_processes(run, *settings)
    wait_for_step_20(run, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = wait_for_exit(processes)
    assert codes == [75, 75], outputs
    messages = {line for output in outputs for line in output.splitlines() if line.startswith("preempted")}
    assert len(messages) == 1
    step = int(messages.pop().split("step ")[1].split(";")[0])
    assert load(run)[2]["step"] == step
    # One process instead of two, with micro-batches and a decoding worker.
    machine = ("--config.accumulate=2", "--config.data.workers=1", "--config.checkpoint_every=1000")
    assert f"resumed after step {step}" in finish(start(run, *settings, *machine))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 112


@pytest.mark.slow
def test_processes_resume_together_from_the_intact_checkpoint(tmp_path):
    run = tmp_path / "run"
    for process in start_processes(run, *SETTINGS):
        finish(process)
    folder = run / "checkpoints"
    # Both processes wrote to it, and one of them wrote the manifest.
    assert {path.name for path in (folder / "22" / "ema").glob("ocdbt.process_*")} >= {"ocdbt.process_0"}
    (folder / "22" / "opt_state" / "_METADATA").unlink()
    first, _ = (finish(process) for process in start_processes(run, *SETTINGS))
    assert f"checkpoint {folder}/22 is damaged (opt_state/_METADATA: not found): renamed to 22.damaged-1" in first
    assert "resumed after step 11" in first
    assert load(run)[2]["step"] == 22
    for step in ("11", "22"):
        (folder / step / "meta" / "metadata").write_text("{}")
    codes, outputs = wait_for_exit(start_processes(run, *SETTINGS))
    assert codes == [2, 2], outputs
    assert f"error: {folder}: all checkpoints are damaged (11/meta/metadata: expected" in outputs[0].splitlines()[-1]
    assert outputs[1].splitlines()[-1] == f"error: {folder}: cannot be used; see the error of the first process"
