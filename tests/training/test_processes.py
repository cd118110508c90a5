"""Several processes as one run, over gloo: the same parameters, one checkpoint, and nobody waits for the dead."""

import json
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tcvit_jax.checkpoint import load
from tests.training.kills import finish, start, until

# Keys' biases have no gradient but rounding errors, which Adam makes whole steps of: they are left out.
SETTINGS = (
    "--config.model.qkv_bias=False", "--config.epochs=1", "--config.eval_batch_size=64", "--config.checkpoint_every=11",
    "--config.log_every=5",
)  # fmt: skip
LONG = ("--config.epochs=200", "--config.eval_batch_size=64", "--config.log_every=5", "--config.checkpoint_every=1000")


def together(workdir, *arguments, **variables):
    """Two processes of one run."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start(
            workdir, *arguments, JAX_COORDINATOR_ADDRESS=f"localhost:{port}", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(k),
            **variables,
        )
        for k in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run of two processes with a device each."""
    run = tmp_path_factory.mktemp("two") / "run"
    outputs = [finish(process) for process in together(run, *SETTINGS)]
    return run, outputs


@pytest.mark.parametrize("devices", [1, 2])
def test_two_processes_train_as_one_with_the_same_global_batch(both, tmp_path, devices):
    run, _ = both
    flags = f"--xla_force_host_platform_device_count={devices}"
    finish(start(tmp_path / "one", *SETTINGS, XLA_FLAGS=flags))
    for weights in ("variables", "ema"):
        # What two processes have saved, this one restores, on eight devices.
        _, two, meta = load(run, weights)
        _, one, _ = load(tmp_path / "one", weights)
        assert meta["step"] == 22
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), two, one)
    logs = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (run, tmp_path / "one")
    ]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    assert logs[0][-1]["val_top1"] == logs[1][-1]["val_top1"]
    assert logs[0][-1]["val_examples"] == 359


def test_the_first_process_speaks_for_both(both):
    _, (first, second) = both
    assert "devices 2 x cpu" in first
    assert [line for line in second.splitlines() if not line.startswith("[Gloo]")] == []


def test_one_process_continues_what_two_began(both):
    """The same run on another number of processes and devices."""
    run, _ = both
    assert "continued after step 22" in finish(start(run, *SETTINGS))


@pytest.mark.parametrize(("number", "victim"), [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGTERM, 1)])
def test_nobody_waits_for_a_process_that_is_gone(tmp_path, number, victim):
    processes = together(tmp_path / "run", *LONG)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until(lambda: metrics.is_file() and metrics.read_text().count("\n") > 3, processes[0])
    processes[victim].send_signal(number)
    begun = time.monotonic()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert time.monotonic() - begun < 60
    codes = [process.returncode for process in processes]
    if number == signal.SIGTERM:
        # One was told, and both have saved the same step.
        assert codes == [75, 75], outputs
        said = {line for output in outputs for line in output.splitlines() if line.startswith("interrupted")}
        assert len(said) == 1
        assert load(tmp_path / "run")[2]["step"] == int(said.pop().split("step ")[1].split(":")[0])
    else:
        assert codes[victim] == -signal.SIGKILL
        other = codes[1 - victim]
        assert other not in (0, 75), outputs
        if victim == 1:
            assert other == 1
            assert "error: an exchange with another process failed, which may be gone" in outputs[0].splitlines()[-1]
