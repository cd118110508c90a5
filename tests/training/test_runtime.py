"""Joining other processes: what the environment says, and what it says wrong. Real ones: `test_processes.py`."""

import importlib.util

import jax
import pytest

import tcvit_jax as tc
from tcvit_jax.training import runtime
from tcvit_jax.training.preemption import Preempted

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` is called with, instead of calling it."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(a))
    for name in (*NAMES, "SLURM_NTASKS", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE"):
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
        # The shell of an allocation is not one of its tasks.
        ({"SLURM_NTASKS": "4"}, "auto", []),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "auto", [()]),
        (dict(zip(NAMES, ("host:1234", "3", "2"), strict=True)), "auto", [("host:1234", 3, 2)]),
    ],
)
def test_processes_are_joined_where_there_are_others(joined, monkeypatch, variables, mode, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runtime.join(mode)
    assert joined == expected


@pytest.mark.parametrize(("chips", "compiler", "platforms", "expected"), [
    (True, True, "", [()]), (True, True, "tpu,cpu", [()]), (True, True, "cpu", []), (True, False, "", []), (False, True, "", []),
])  # fmt: skip
def test_on_a_machine_with_tpu_chips_jax_is_asked(joined, monkeypatch, tmp_path, chips, compiler, platforms, expected):
    if chips:
        (tmp_path / "accel0").touch()
    monkeypatch.setattr(runtime, "Path", lambda _: tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: compiler or None)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    runtime.join()
    assert joined == expected


@pytest.mark.parametrize(
    ("variables", "mode", "message"),
    [
        ({}, "onn", "unknown --distributed 'onn': did you mean 'on'?"),
        (
            {"JAX_NUM_PROCESSES": "2"}, "auto",
            "JAX_NUM_PROCESSES is set and JAX_COORDINATOR_ADDRESS is not: set all of JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES, JAX_PROCESS_ID, or none",
        ),
        (dict(zip(NAMES, ("host:1", "two", "0"), strict=True)), "auto", "JAX_NUM_PROCESSES='two' is not a whole number"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(joined, monkeypatch, variables, mode, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(tc.InputError) as caught:
        runtime.join(mode)
    assert str(caught.value) == message
    assert joined == []


def test_a_machine_that_is_alone_cannot_be_asked_for_others(monkeypatch, joined):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.\nMore of it.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(
        tc.InputError,
        match=r"^--distributed=on: the processes cannot be joined: coordinator_address should be defined\. \(one that is alone needs --distributed=off\)$",
    ):
        runtime.join("on")


@pytest.mark.parametrize("error", [tc.InputError("a mistake"), RuntimeError("of the program"), Preempted(3)])
def test_a_process_that_is_alone_raises_what_happened(capsys, error):
    with pytest.raises(type(error)) as caught, runtime.together("off"):
        raise error
    assert caught.value is error
    assert capsys.readouterr().err == ""
