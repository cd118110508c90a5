"""Errors of devices and of memory, in the API and in every command."""

import json
import re

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import atomic, checkpoint
from tcvit_jax.devices import device_error
from tests.models.builders import small, variables_of


def raised(function):
    """Return the exception that a function raises."""
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("no exception")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "memory of this machine: out of memory; lower x"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore"),
            "memory of the device: out of memory (Out of memory while trying to allocate 9 bytes); lower x",
        ),
        (
            RuntimeError("Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices. (you may need to uninstall the failing plugin package, or set JAX_PLATFORMS=cpu to skip this backend.)"),
            "JAX_PLATFORMS='cpu': device cannot be used: Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices; unset it to use the devices of this machine",
        ),
    ],
)  # fmt: skip
def test_errors_of_devices_are_named(monkeypatch, error, message):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert str(device_error(error, "lower x")) == message


def test_real_lack_of_memory_is_named():
    host = device_error(raised(lambda: np.zeros((2**40, 2**10))))
    assert "memory of this machine: out of memory (Unable to allocate" in str(host)
    device = device_error(raised(lambda: jax.numpy.zeros((2**40, 2**20), np.int8).block_until_ready()))
    assert "memory of the device: out of memory (" in str(device)


@pytest.mark.parametrize(
    "error", [ValueError("damaged"), AssertionError(), RuntimeError("other"), tc.InputError("a"), OSError(5, "x")]
)
def test_other_errors_are_not_errors_of_devices(error):
    assert device_error(raised(lambda: (_ for _ in ()).throw(error))) is None


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")])
def test_lack_of_memory_is_not_called_damage(tmp_path, monkeypatch, error):
    model = small(None, 0)
    checkpoint.save(tmp_path / "ckpt", variables_of(model), {
        "model": tc.models.to_config(model), "preprocessing": {}, "classes": None,
    })  # fmt: skip

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint.sharding, "data_mesh", fail)
    with pytest.raises(tc.InputError, match=r"^memory of .*: out of memory.*; free memory, or use a device"):
        tc.load(tmp_path / "ckpt")
    with pytest.raises(tc.InputError, match="^memory of "), atomic.write_errors(tmp_path / "x"):
        raise error


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A converted checkpoint of a tiny model."""
    model = small(None, 0)
    path = tmp_path_factory.mktemp("converted") / "ckpt"
    meta = {"preprocessing": json.loads(json.dumps(tc.models.preprocessing(model.variant).__dict__)), "classes": None}
    checkpoint.save(path, variables_of(model), {"model": tc.models.to_config(model), **meta})
    return path


NO_DEVICE = "JAX_PLATFORMS='cuda': device cannot be used: no device of this platform found; unset it to use the devices of this machine, or install jax[cuda]"


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval.py", "--checkpoint", "CKPT"),
        ("train.py", "--config", "configs/digits_gtp.py", "--config.workdir=RUN"),
        pytest.param(("tcvit_jax.benchmark", "--checkpoint", "CKPT", "--out", "RUN"), marks=pytest.mark.slow),
        pytest.param(("tcvit_jax.convert", "CKPT", "--out", "RUN/w.safetensors"), marks=pytest.mark.slow),
    ],
)
def test_commands_without_their_device_are_one_line_and_status_2(script, converted, tmp_path, arguments):
    replaced = [each.replace("CKPT", str(converted)).replace("RUN", str(tmp_path / "run")) for each in arguments]
    process = script(*replaced, JAX_PLATFORMS="cuda")
    assert (process.returncode, process.stderr) == (2, f"error: {NO_DEVICE}\n")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_PLATFORMS": "foo"}, "JAX_PLATFORMS='foo': device cannot be used: Unable to initialize backend 'foo': .*"),
        ({"JAX_ENABLE_X64": "foo"}, "environment of JAX: invalid truth value 'foo' for environment 'JAX_ENABLE_X64'; .*"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_invalid_environment_is_one_line_and_status_2(script, converted, variables, message):
    process = script("eval.py", "--checkpoint", str(converted), **variables)
    assert process.returncode == 2
    assert re.fullmatch(f"error: {message}\n", process.stderr), process.stderr
