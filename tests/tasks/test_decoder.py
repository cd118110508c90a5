"""Loading of decoders from weight files and Orbax checkpoints."""

import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax.tasks.decoder import load_decoder

KERNEL, BIAS = np.arange(5, dtype=np.float32)[:, None], np.ones(1, np.float32)
HERE = "tests.tasks.decoders"


def write(path, tensors):
    save_file(tensors, path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("Pointwise", {"layer.kernel": KERNEL, "layer.bias": BIAS}),
        ("Pointwise", {"params/layer/kernel": KERNEL, "params/layer/bias": BIAS}),
        ("Renamed", {"weight": np.ascontiguousarray(KERNEL.T), "bias": BIAS}),
    ],
)
def test_names_of_tensors_become_variables(tmp_path, name, tensors):
    decoder = load_decoder(f"{HERE}:{name}", write(tmp_path / "w.safetensors", tensors))
    assert decoder.map_shape((2, 3), 5) == (2, 3, 1)
    np.testing.assert_array_equal(decoder.variables["params"]["layer"]["kernel"], KERNEL)


def test_orbax_checkpoints_are_read(tmp_path):
    variables = {"params": {"layer": {"kernel": KERNEL, "bias": BIAS}}}
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "ckpt", variables)
    decoder = load_decoder(f"{HERE}:Pointwise", str(tmp_path / "ckpt"))
    np.testing.assert_array_equal(decoder.variables["params"]["layer"]["kernel"], KERNEL)
    assert decoder.map_shape((2, 3), 5) == (2, 3, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(tc.InputError, match="empty: cannot read the Orbax checkpoint: "):
        load_decoder(f"{HERE}:Pointwise", str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Pointwise", "--decoder='Pointwise': must be package.module:NAME of a Flax module"),
        (
            "nowhere:Pointwise",
            "--decoder nowhere:Pointwise: cannot be created: No module named 'nowhere'; expected package",
        ),
        (f"{HERE}:Pointwize", f"--decoder {HERE}:Pointwize: cannot be created: module '{HERE}' has no attribute"),
        (f"{HERE}:NUMBER", f"--decoder {HERE}:NUMBER: cannot be created: 'int' object is not callable"),
        ("builtins:dict", "--decoder='builtins:dict': must be .*; it returns a dict"),
        (f"{HERE}:refuse", "no decoder today"),
    ],
)
def test_invalid_modules_are_errors(tmp_path, name, message):
    with pytest.raises(tc.InputError, match=message):
        load_decoder(name, write(tmp_path / "w.safetensors", {"layer.kernel": KERNEL}))


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("Pointwise", {"layer.kernel": KERNEL}, "--decoder-weights: params.layer.bias of .* not found; names are params.layer.kernel"),
        ("Pointwise", {"layer.kernel": KERNEL[:4], "layer.bias": BIAS}, r"params.layer.kernel: expected \(5, 1\), got \(4, 1\)"),
        ("Pointwise", {"layer.kernel": KERNEL, "layer.bias": BIAS, "more": BIAS}, "--decoder-weights: params.more not found in "),
        ("Pooled", {"layer.kernel": KERNEL, "layer.bias": BIAS}, r"expected a map \(1, H, W, C\), got float32 \(1, 1\)"),
        ("Renamed", {"kernel": KERNEL}, "w.safetensors: cannot convert the weights of .*: 'weight'"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_errors(tmp_path, name, tensors, message):
    with pytest.raises(tc.InputError, match=message):
        load_decoder(f"{HERE}:{name}", write(tmp_path / "w.safetensors", tensors)).map_shape((2, 3), 5)


def test_damaged_and_missing_files_are_errors(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    for file in ("w.safetensors", "nowhere.safetensors"):
        with pytest.raises(tc.InputError, match=file):
            load_decoder(f"{HERE}:Pointwise", str(tmp_path / file))
