"""Initialization of distributed processes from the environment. `test_processes.py` starts real processes."""

import importlib.util

import jax
import pytest

import tcvit_jax as tc
from tcvit_jax.training import runtime
from tcvit_jax.training.preemption import Preempted

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def initialize_calls(monkeypatch):
    """The arguments of the calls of `jax.distributed.initialize`, which is replaced."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(a))
    for name in (*VARIABLES, "SLURM_NTASKS", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("variables", "mode", "expected"),
    [
        ({}, "auto", []),
        ({}, "on", [()]),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a"}, "auto", []),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a"}, "auto", [()]),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a"}, "off", []),
        # The shell of an allocation is not a task.
        ({"SLURM_NTASKS": "4"}, "auto", []),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "auto", [()]),
        (dict(zip(VARIABLES, ("host:1234", "3", "2"), strict=True)), "auto", [("host:1234", 3, 2)]),
    ],
)
def test_processes_are_initialized_if_the_environment_has_others(
    initialize_calls, monkeypatch, variables, mode, expected
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runtime.initialize_processes(mode)
    assert initialize_calls == expected


@pytest.mark.parametrize(("chips", "compiler", "platforms", "expected"), [
    (True, True, "", [()]), (True, True, "tpu,cpu", [()]), (True, True, "cpu", []), (True, False, "", []), (False, True, "", []),
])  # fmt: skip
def test_processes_are_initialized_on_a_tpu_vm(
    initialize_calls, monkeypatch, tmp_path, chips, compiler, platforms, expected
):
    if chips:
        (tmp_path / "accel0").touch()
    monkeypatch.setattr(runtime, "Path", lambda _: tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: compiler or None)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    runtime.initialize_processes()
    assert initialize_calls == expected


@pytest.mark.parametrize(
    ("variables", "mode", "message"),
    [
        ({}, "onn", "unknown --distributed 'onn': did you mean 'on'?"),
        (
            {"JAX_NUM_PROCESSES": "2"}, "auto",
            "JAX_NUM_PROCESSES requires JAX_COORDINATOR_ADDRESS: set all of JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES, JAX_PROCESS_ID, or none",
        ),
        (dict(zip(VARIABLES, ("host:1", "two", "0"), strict=True)), "auto", "JAX_NUM_PROCESSES='two': must be a non-negative integer"),
    ],
)  # fmt: skip
def test_invalid_environment_is_a_one_line_error(initialize_calls, monkeypatch, variables, mode, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(tc.InputError) as error:
        runtime.initialize_processes(mode)
    assert str(error.value) == message
    assert initialize_calls == []


def test_failed_initialization_is_a_one_line_error(monkeypatch, initialize_calls):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.\nMore text.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        tc.InputError,
        match=r"^--distributed=on: cannot initialize jax.distributed: coordinator_address should be defined\.; use --distributed=off for a single process$",
    ):
        runtime.initialize_processes("on")


@pytest.mark.parametrize("error", [tc.InputError("invalid"), RuntimeError("failure"), Preempted(3)])
def test_single_process_raises_the_original_error(capsys, error):
    with pytest.raises(type(error)) as raised, runtime.distributed_processes("off"):
        raise error
    assert raised.value is error
    assert capsys.readouterr().err == ""
