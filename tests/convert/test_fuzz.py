"""Damaged and hostile files: each is one error in one line, leaves nothing behind, and runs nothing.

Without torch every pickle is refused, damaged or not; with it, each for what is wrong with it.
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
    """What a pickle would run."""

    def __init__(self, sentinel, how):
        self.sentinel, self.how = sentinel, how

    def __reduce__(self):
        if self.how == "system":
            return os.system, (f"touch {self.sentinel}",)
        if self.how == "eval":
            return eval, (f"open({str(self.sentinel)!r}, 'w').close()",)
        return open, (str(self.sentinel), "w")


def npz(tensors):
    file = io.BytesIO()
    np.savez(file, **tensors)
    return file.getvalue()


def pth(tensors):
    """As torch writes them, where it is installed; otherwise a pickle that looks like one."""
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


def truncated(rng, suffix, sentinel):
    content = FORMATS[suffix](tensors_of(suffix))
    return content[: rng.integers(0, len(content))]


def flipped(rng, suffix, sentinel):
    """One bit of what says where things are."""
    content = bytearray(FORMATS[suffix](tensors_of(suffix)))
    if suffix == ".safetensors":
        position = rng.integers(0, 8 + struct.unpack("<Q", content[:8])[0])
    elif suffix == ".npz":
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            member = rng.choice(file.infolist())
        # The array's own header, behind the one of the archive.
        position = member.header_offset + 30 + len(member.filename) + 20 + rng.integers(0, 60)
    else:
        with_torch = zipfile.is_zipfile(io.BytesIO(content))
        position = (
            rng.integers(0, 4)
            if not with_torch
            else zipfile.ZipFile(io.BytesIO(content)).infolist()[0].header_offset + rng.integers(64, 300)
        )
    content[position] ^= 1 << rng.integers(0, 8)
    return bytes(content)


def changed(change):
    def damage(rng, suffix, sentinel):
        tensors = tensors_of(suffix)
        name = str(rng.choice(sorted(tensors)))
        tensors.update(change(rng, name, tensors.pop(name)))
        return FORMATS[suffix]({key: np.ascontiguousarray(value) for key, value in tensors.items()})

    return damage


def spoil(rng, name, value):
    value = value.copy()
    value.flat[rng.integers(0, value.size)] = rng.choice([np.nan, np.inf, -np.inf])
    return {name: value}


def hostile(rng, suffix, sentinel):
    payload = Payload(sentinel, rng.choice(["system", "eval", "open"]))
    if suffix == ".npz":
        file = io.BytesIO()
        np.savez(file, **tensors_of(suffix) | {"cls": np.array([payload], object)})
        return file.getvalue()
    raw = pickle.dumps({**tensors_of(suffix), "norm.weight": payload}, protocol=rng.integers(0, 5))
    if suffix == ".safetensors" or rng.random() < 0.5:
        return raw
    # The container that torch writes, with a pickle of ours in it.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", raw)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


DAMAGES = {
    "truncated": truncated,
    "flipped": flipped,
    "renamed": changed(lambda rng, name, value: {name + rng.choice(["s", "\n", ".x", "/y"]): value}),
    "reshaped": changed(lambda rng, name, value: {name: value[None] if rng.random() < 0.5 else value[..., :-1]}),
    "recast": changed(lambda rng, name, value: {name: value.astype(rng.choice(["f2", "f8", "i4", "u1", "?"]))}),
    "extra": changed(lambda rng, name, value: {name: value, f"{name}_{rng.integers(99)}": value}),
    "not finite": changed(spoil),
    "hostile": hostile,
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
def test_every_damage_is_one_line_and_nothing_is_left_or_run(tmp_path, damage):
    rng = np.random.default_rng(list(damage.encode()))
    name, overrides, _, _ = cases.case("deit")
    sentinel = tmp_path / "executed"
    for index in range(FILES // len(DAMAGES)):
        suffix = list(FORMATS)[index % len(FORMATS)]
        path = tmp_path / f"w{suffix}"
        path.write_bytes(DAMAGES[damage](rng, suffix, sentinel))
        with pytest.raises(tc.InputError) as caught:
            tc.convert.to_checkpoint(str(path), tmp_path / "ckpt", name, overrides=overrides, compare=False)
        assert str(caught.value).isprintable(), str(caught.value)
        path.unlink()
        assert not list(tmp_path.iterdir())
