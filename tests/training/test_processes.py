"""Several processes as one run, over gloo: the same parameters, one checkpoint, and nobody waits for the dead."""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tcvit_jax.checkpoint import load
from tests.training.kills import LEAST_EFFORT, finish, start, until

# Keys' biases have no gradient but rounding errors, which Adam makes whole steps of: they are left out.
SETTINGS = (
    "--config.model.qkv_bias=False", "--config.epochs=1", "--config.eval_batch_size=64", "--config.checkpoint_every=11",
    "--config.log_every=5",
)  # fmt: skip
LONG = ("--config.epochs=5", "--config.eval_batch_size=64", "--config.log_every=5", "--config.eval_every=5")


def together(workdir, *arguments, each=((), ())):
    """Two processes of one run, with arguments of `each`."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start(
            workdir, *arguments, *each[k], JAX_COORDINATOR_ADDRESS=f"localhost:{port}", JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(k),
        )
        for k in range(2)
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path):
    """And one process, on eight devices here, restores what two have saved."""
    first, second = (finish(process) for process in together(tmp_path / "two", *SETTINGS))
    assert "devices 2 x cpu" in first
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []
    for devices in (1, 2):
        run = tmp_path / f"one_{devices}"
        finish(start(run, *SETTINGS, XLA_FLAGS=f"--xla_force_host_platform_device_count={devices} {LEAST_EFFORT}"))
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


def at_step_20(workdir, processes):
    """Return when a run has come so far."""
    metrics = workdir / "metrics.jsonl"
    until(lambda: metrics.is_file() and metrics.read_text().count("\n") > 3, processes[0])


def ended(processes):
    """Statuses and outputs of processes; none may take a minute to end."""
    begun = time.monotonic()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert time.monotonic() - begun < 60, outputs
    return [process.returncode for process in processes], outputs


@pytest.mark.parametrize("victim", [1, 0])
@pytest.mark.slow
def test_nobody_waits_for_a_process_that_is_killed(tmp_path, victim):
    processes = together(tmp_path / "run", *LONG, "--config.checkpoint_every=1000")
    at_step_20(tmp_path / "run", processes)
    processes[victim].kill()
    codes, outputs = ended(processes)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] not in (0, 75), outputs
    if victim == 1:
        assert codes[0] == 1
        assert "error: an exchange with another process failed, which may be gone" in outputs[0].splitlines()[-1]


def test_nobody_waits_for_a_process_that_made_a_mistake(tmp_path):
    """It ends with its line, though the others are still there, and they end as well."""
    first, second = together(tmp_path / "run", *LONG, each=((), ("--config.distill.teacher=/nonexistent",)))
    codes, outputs = ended([second, first])
    assert codes[0] == 2
    assert outputs[0].splitlines()[-1] == "error: distill.teacher='/nonexistent': /nonexistent: checkpoint not found"
    assert codes[1] not in (0, 2, 75)


@pytest.mark.slow
def test_one_process_is_told_to_end_and_both_save_and_another_number_of_them_continues(tmp_path):
    # A save after every step: what Orbax would ask of the others must not come between.
    run, settings = tmp_path / "run", (*LONG, "--config.checkpoint_every=1")
    processes = together(run, *settings)
    at_step_20(run, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = ended(processes)
    assert codes == [75, 75], outputs
    said = {line for output in outputs for line in output.splitlines() if line.startswith("interrupted")}
    assert len(said) == 1
    step = int(said.pop().split("step ")[1].split(":")[0])
    assert load(run)[2]["step"] == step
    # One process instead of two, in parts of batches, with a worker that decodes.
    moved = ("--config.accumulate=2", "--config.data.workers=1", "--config.checkpoint_every=1000")
    assert f"continued after step {step}" in finish(start(run, *settings, *moved))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 112
