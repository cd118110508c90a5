"""Weight files on the disk."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tests.convert.test_timm import MODEL, weights


def test_safetensors_round_trip(tmp_path):
    save_file(weights(), tmp_path / "w.safetensors")
    read = tc.convert.read_state_dict(tmp_path / "w.safetensors")
    params, expected = tc.convert.from_torch(read, MODEL), tc.convert.from_torch(weights(), MODEL)
    np.testing.assert_array_equal(params["params"]["head"]["kernel"], expected["params"]["head"]["kernel"])


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(tc.InputError, match="no weight file '.*gone.safetensors'"):
        tc.convert.read_state_dict(tmp_path / "gone.safetensors")
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(tc.InputError, match=r"has suffix '.npz': use .safetensors or .pth"):
        tc.convert.read_state_dict(tmp_path / "w.npz")
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    with pytest.raises(tc.InputError, match="cannot read '.*w.safetensors' as safetensors"):
        tc.convert.read_state_dict(tmp_path / "w.safetensors")


def test_pickles_need_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="pickled weights are read with the optional torch")
    path = tmp_path / "w.pth"
    torch.save({"model": {name: torch.from_numpy(value) for name, value in weights().items()}}, path)
    read = tc.convert.read_state_dict(path)
    np.testing.assert_array_equal(np.asarray(read["head.weight"]), weights()["head.weight"])
    path.write_bytes(b"junk")
    with pytest.raises(tc.InputError, match="as a torch checkpoint"):
        tc.convert.read_state_dict(path)


def test_pickles_without_torch_name_the_package(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(tc.InputError, match=r"needs torch: pip install 'tcvit_jax\[convert\]'"):
        tc.convert.read_state_dict(tmp_path / "w.pth")
