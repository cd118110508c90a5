"""Joining other processes: what the environment says, and what it says wrong. Real ones: `test_processes.py`."""

import jax
import pytest

import tcvit_jax as tc
from tcvit_jax.training import runtime

NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@pytest.fixture
def joined(monkeypatch):
    """What `jax.distributed.initialize` is called with, instead of calling it."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(a))
    for name in (*NAMES, "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("variables", "mode", "expected"),
    [
        ({}, "auto", []),
        ({}, "on", [()]),
        ({"SLURM_NTASKS": "1"}, "auto", []),
        ({"SLURM_NTASKS": "4"}, "auto", [()]),
        ({"SLURM_NTASKS": "4"}, "off", []),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "auto", [()]),
        ({"TPU_WORKER_HOSTNAMES": "a"}, "auto", []),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "auto", [()]),
        (dict(zip(NAMES, ("host:1234", "3", "2"), strict=True)), "auto", [("host:1234", 3, 2)]),
    ],
)
def test_processes_are_joined_where_there_are_others(joined, monkeypatch, variables, mode, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runtime.join(mode)
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
        match=r"^--distributed=on: the processes cannot be joined: coordinator_address should be defined\.$",
    ):
        runtime.join("on")


def test_an_error_of_a_process_that_is_alone_is_not_hidden():
    assert runtime.end_alone(RuntimeError("of the program")) is None
