"""Damaged and hostile files: each raises one error in one line, writes nothing, and executes nothing.

Without torch, every pickle is rejected because torch is required.
"""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

import tcvit_jax as tc
from tests.convert import cases
from tests.convert.cases import augreg, weights

FILES = 200


class Payload:
    """An object whose unpickling creates the sentinel file."""

    def __init__(self, sentinel, function):
        self.sentinel, self.function = sentinel, function

    def __reduce__(self):
        if self.function == "system":
            return os.system, (f"touch {self.sentinel}",)
        if self.function == "eval":
            return eval, (f"open({str(self.sentinel)!r}, 'w').close()",)
        return open, (str(self.sentinel), "w")


def npz(tensors):
    file = io.BytesIO()
    np.savez(file, **tensors)
    return file.getvalue()


def pth(tensors):
    """Return a torch file, or a plain pickle if torch is not installed."""
    try:
        import torch
    except ImportError:
        return pickle.dumps(tensors)
    file = io.BytesIO()
    torch.save(
        {"model": {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}}, file
    )
    return file.getvalue()


FORMATS = {".safetensors": save, ".npz": npz, ".pth": pth}


def tensors_of(suffix):
    return augreg(weights(), 3) if suffix == ".npz" else weights()


def truncate(rng, suffix, sentinel):
    content = FORMATS[suffix](tensors_of(suffix))
    return content[: rng.integers(0, len(content))]


def flip_bit(rng, suffix, sentinel):
    """Flip one bit of the metadata."""
    content = bytearray(FORMATS[suffix](tensors_of(suffix)))
    if suffix == ".safetensors":
        position = rng.integers(0, 8 + struct.unpack("<Q", content[:8])[0])
    elif suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            member = rng.choice(file.infolist())
        # The header of the array, after the header of the archive member.
        position = member.header_offset + 30 + len(member.filename) + 20 + rng.integers(0, 60)
    else:
        is_zip = zipfile.is_zipfile(io.BytesIO(content))
        position = (
            rng.integers(0, 4)
            if not is_zip
            else zipfile.ZipFile(io.BytesIO(content)).infolist()[0].header_offset + rng.integers(64, 300)
        )
    content[position] ^= 1 << rng.integers(0, 8)
    return bytes(content)


def change_tensor(change):
    def damage(rng, suffix, sentinel):
        tensors = tensors_of(suffix)
        name = str(rng.choice(sorted(tensors)))
        tensors.update(change(rng, name, tensors.pop(name)))
        return FORMATS[suffix]({key: np.ascontiguousarray(value) for key, value in tensors.items()})

    return damage


def make_nonfinite(rng, name, value):
    value = value.copy()
    value.flat[rng.integers(0, value.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return {name: value}


def insert_payload(rng, suffix, sentinel):
    payload = Payload(sentinel, rng.choice(["system", "eval", "open"]))
    if suffix == ".npz":
        file = io.BytesIO()
        np.savez(file, **tensors_of(suffix) | {"cls": np.array([payload], object)})
        return file.getvalue()
    content = pickle.dumps({**tensors_of(suffix), "norm.weight": payload}, protocol=rng.integers(0, 5))
    if suffix == ".safetensors" or rng.random() < 0.5:
        return content
    # The archive format of torch, with the pickle inside.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


DAMAGES = {
    "truncated": truncate,
    "flipped": flip_bit,
    "renamed": change_tensor(lambda rng, name, value: {name + rng.choice(["s", "\n", ".x", "/y"]): value}),
    "reshaped": change_tensor(lambda rng, name, value: {name: value[None] if rng.random() < 0.5 else value[..., :-1]}),
    "recast": change_tensor(lambda rng, name, value: {name: value.astype(rng.choice(["i4", "u1", "?"]))}),
    "extra": change_tensor(lambda rng, name, value: {name: value, f"{name}_{rng.integers(99)}": value}),
    "not finite": change_tensor(make_nonfinite),
    "hostile": insert_payload,
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_undamaged_files_are_converted(request, tmp_path, suffix):
    if suffix == ".pth":
        request.getfixturevalue("torch")
    name, overrides, _, _ = cases.case("deit")
    path = tmp_path / f"w{suffix}"
    path.write_bytes(FORMATS[suffix](tensors_of(suffix)))
    report = tc.convert.to_checkpoint(str(path), tmp_path / "ckpt", name, overrides=overrides, compare=False)
    assert not report.conversion.ignored + report.conversion.resampled


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_one_error_and_writes_or_executes_nothing(tmp_path, damage):
    rng = np.random.default_rng(list(damage.encode()))
    name, overrides, _, _ = cases.case("deit")
    sentinel = tmp_path / "executed"
    for index in range(FILES // len(DAMAGES)):
        suffix = list(FORMATS)[index % len(FORMATS)]
        path = tmp_path / f"w{suffix}"
        path.write_bytes(DAMAGES[damage](rng, suffix, sentinel))
        with pytest.raises(tc.InputError) as error:
            tc.convert.to_checkpoint(str(path), tmp_path / "ckpt", name, overrides=overrides, compare=False)
        assert str(error.value).isprintable(), str(error.value)
        path.unlink()
        assert not list(tmp_path.iterdir())
