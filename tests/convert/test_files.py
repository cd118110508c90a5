"""Reading and writing of weight files."""

import argparse
import warnings
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

import tcvit_jax as tc
from tcvit_jax.convert.files import read_file, write_safetensors
from tests.convert import cases
from tests.convert.cases import weights

MODEL = cases.model("deit")


def assert_read(path, **options):
    file = read_file(path, **options)
    assert sorted(file) == sorted(weights())
    assert len(file) == len(weights())
    np.testing.assert_array_equal(np.asarray(file["head.weight"]), weights()["head.weight"])
    with pytest.raises(KeyError):
        file["nothing"]
    return file


def test_safetensors(tmp_path):
    save_file(weights(), tmp_path / "w.safetensors")
    assert assert_read(tmp_path / "w.safetensors").grid is None


def test_npz(tmp_path):
    np.savez(tmp_path / "w.npz", **weights())
    assert_read(tmp_path / "w.npz")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".tar", ".bin", ".pth.tar"])
def test_pickles(torch, tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    torch.save(tensors, path)
    assert assert_read(path).entry == ""
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert_read(path)


def test_training_checkpoints(torch, tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    zeros = {name: torch.zeros_like(value) for name, value in tensors.items()}
    path = tmp_path / "w.pth"
    for entry in ("model", "state_dict", "state_dict_ema", "model_ema"):
        torch.save({"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}, entry: tensors}, path)
        assert assert_read(path).entry == entry
    torch.save({"state_dict": zeros, "state_dict_ema": tensors}, path)
    assert assert_read(path).entry == "state_dict_ema"
    assert not np.asarray(read_file(path, "state_dict")["head.weight"]).any()
    with pytest.raises(tc.InputError, match="unknown checkpoint entry 'state_dcit': did you mean 'state_dict'"):
        read_file(path, "state_dcit")


def test_unknown_entries_are_listed(torch, tmp_path):
    torch.save({"epoch": 3, "net": {"x": torch.zeros(1)}, "optimizer": {}}, tmp_path / "w.pth")
    with pytest.raises(
        tc.InputError, match="expected tensors, got entries net, optimizer; choose one with entry or --entry"
    ):
        read_file(tmp_path / "w.pth")


# torch warns that validation of sparse tensors is slow.
SPARSE = pytest.param("sparse", marks=pytest.mark.filterwarnings("ignore:Validating sparse tensor"))


@pytest.mark.parametrize("change", [SPARSE, "meta", "float8_e4m3fn", "complex", "list"])
def test_unsupported_tensors_are_rejected(torch, tmp_path, change):
    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    value = tensors["norm.bias"]
    tensors["norm.bias"] = {
        "sparse": value.to_sparse, "meta": lambda: value.to("meta"), "float8_e4m3fn": lambda: value.to(torch.float8_e4m3fn),
        "complex": lambda: torch.view_as_complex(torch.zeros(48, 2)).conj(), "list": lambda: [value, value[:3]],
    }[change]()  # fmt: skip
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(tc.InputError, match=r"norm.bias: (cannot be read: |expected a floating-point dtype, got )"):
        tc.convert.from_torch(read_file(tmp_path / "w.pth"), MODEL)


def test_old_torch_is_rejected(tmp_path, monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.9.1+cpu"))
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(
        tc.InputError, match=r"requires torch>=2.10: older versions such as 2.9.1\+cpu can execute code in a pickle"
    ):
        read_file(tmp_path / "w.pth")


def test_bfloat16_of_torch(torch, tmp_path):
    tensors = {name: torch.from_numpy(value).bfloat16() for name, value in weights().items()}
    kernel = tc.convert.from_torch(tensors, MODEL)["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["head.weight"].float().numpy().T)


def test_unreadable_files_are_rejected(tmp_path):
    def message(name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(tc.InputError) as error:
            read_file(tmp_path / name)
        return str(error.value).replace(str(tmp_path), "")

    with pytest.raises(tc.InputError, match="gone.safetensors: not found$"):
        read_file(tmp_path / "gone.safetensors")
    expected = "expected a weight file (.safetensors, .npz or a torch checkpoint), got "
    for content, kind in {
        b"": "an empty file",
        b"no weights": "other content",
        b"\x89HDF\r\n": "an HDF5 file",
        b"<!DOCTYPE html>": "an HTML or XML page; the download failed",
        b"version https://git-lfs.github.com/spec/v1\n": "a pointer of Git LFS; run git lfs pull",
        b"PK\x03\x04": "File is not a zip file",
    }.items():
        assert message("w.h5", content) == f"/w.h5: {expected}{kind}"
    assert message("w.safetensors", b"not tensors").startswith("/w.safetensors: cannot read as safetensors: ")
    assert message("w.npz", b"not tensors").startswith("/w.npz: cannot read as .npz: ")


def test_duplicate_name_is_rejected(tmp_path):
    np.savez(tmp_path / "w.npz", **weights())
    with zipfile.ZipFile(tmp_path / "w.npz", "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr("norm.bias.npy", file.read("norm.weight.npy"))
    with pytest.raises(tc.InputError, match="w.npz: duplicate tensor 'norm.bias'"):
        read_file(tmp_path / "w.npz")


def test_damaged_member_is_reported_when_read(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **weights())
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("norm.bias.npy").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(tc.InputError, match=r"w.npz: cannot read 'norm.bias': Bad CRC-32"):
        tc.convert.from_torch(read_file(path), MODEL)


def test_invalid_pickles_are_rejected(torch, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"junk")
    with pytest.raises(tc.InputError, match="w.pth: cannot read as a torch checkpoint: "):
        read_file(path)
    torch.save([1, 2], path)
    with pytest.raises(tc.InputError, match="w.pth: expected a dict of tensors, got list"):
        read_file(path)
    torch.save({3: torch.zeros(1)}, path)
    with pytest.raises(tc.InputError, match="w.pth: tensor names must be strings"):
        read_file(path)


def test_pickles_require_torch(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(
        tc.InputError, match=r'w.pth requires torch, which is not installed: pip install "tcvit_jax\[convert\]"'
    ):
        read_file(tmp_path / "w.pth")


def test_written_files_record_their_grid(tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    write_safetensors(path, weights(), {"grid": "4x16"})
    assert assert_read(path).grid == (4, 16)
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]
    with pytest.raises(tc.InputError, match="w.safetensors: already exists; choose another name, or remove it"):
        write_safetensors(path, weights(), {})
    for grid in ("4*16", "²x²", "9" * 5000 + "x1", ""):
        save_file(weights(), tmp_path / "w.safetensors", metadata={"grid": grid})
        with pytest.raises(tc.InputError, match="expected metadata grid=HEIGHTxWIDTH, got grid='.*'"):
            read_file(tmp_path / "w.safetensors")


def test_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tc.InputError, match="file/w.safetensors: cannot be written: "):
        write_safetensors(tmp_path / "file" / "w.safetensors", weights(), {})
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["w", "w.ckpt", "w.PTH", "w.weights", "model.safetensors.tmp"])
def test_content_decides_and_not_the_suffix(tmp_path, name):
    save_file(weights(), tmp_path / "source")
    (tmp_path / "source").rename(tmp_path / name)
    assert assert_read(tmp_path / name).kind == "safetensors"
    with (tmp_path / name).open("wb") as file:
        np.savez(file, **weights())
    assert assert_read(tmp_path / name).kind == "npz"
    with (tmp_path / name).open("wb") as file:
        np.savez_compressed(file, **weights())
    assert_read(tmp_path / name)


@pytest.mark.parametrize("name", ["w", "last.ckpt", "w.PTH", "w.npz", "w.safetensors"])
def test_content_of_torch_files(torch, tmp_path, name):
    tensors = {key: torch.from_numpy(value) for key, value in weights().items()}
    for is_zip in (True, False):
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=is_zip)
        assert assert_read(tmp_path / name).kind == "torch"


def test_bfloat16_files(tmp_path):
    import ml_dtypes

    tensors = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", **tensors)  # NumPy stores two bytes without a type, as big_vision does
    for suffix in ("safetensors", "npz"):
        kernel = tc.convert.from_torch(read_file(tmp_path / f"w.{suffix}"), MODEL)["params"]["head"]["kernel"]
        np.testing.assert_array_equal(kernel, tensors["head.weight"].astype(np.float32).T)


def test_arrays_in_torch_files(torch, tmp_path):
    torch.save(weights(), tmp_path / "w.pth")
    file = read_file(tmp_path / "w.pth")
    actual = tc.convert.from_torch(file, MODEL)["params"]["head"]["kernel"]
    np.testing.assert_array_equal(actual, weights()["head.weight"].T)
    assert file.shape("norm.weight") == (48,)
