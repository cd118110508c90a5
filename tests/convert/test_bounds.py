"""Files that would take endless time or memory: special files, sparse files, false sizes and decompression bombs.

Each is one error in one line. The test runs in a process of its own with bounded memory.
"""

import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

import tcvit_jax as tc
from tcvit_jax.convert.files import read_file
from tcvit_jax.convert.mapping import convert
from tcvit_jax.convert.parity import read_photo
from tests.conftest import ROOT
from tests.convert import cases
from tests.convert.cases import augreg, weights

SUFFIXES = ["", ".safetensors", ".npz", ".pth", ".bin"]
EXPECTED = "expected a weight file (.safetensors, .npz or a torch checkpoint), got "


def one_line(call, *arguments):
    with pytest.raises(tc.InputError) as error:
        call(*arguments)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_only_regular_files_are_opened(tmp_path, suffix):
    pipe, directory, server = (tmp_path / f"{name}{suffix}" for name in ("pipe", "directory", "socket"))
    os.mkfifo(pipe)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as bound_socket:
        bound_socket.bind(str(server))
    link = tmp_path / f"link{suffix}"
    link.symlink_to("/dev/zero")
    for path, kind in ((pipe, "a pipe"), (directory, "a directory"), (server, "a socket"), (link, "a device")):
        assert one_line(read_file, path) == f"{path}: {EXPECTED}{kind}"
        assert one_line(read_photo, path) == f"{path}: expected an image, got {kind}"


def safetensors(header, size=0):
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + bytes(size)


def npy(shape, dtype="<f4", header=None):
    """Return the header of a NumPy array without its values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() if header is None else b"\x93NUMPY\x02\x00" + struct.pack("<I", header)


def npz(path, name, start, zeros):
    """Write all tensors, one of them as `start` and a number of compressed zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, value in augreg(weights(), 3).items():
            if each != name:
                with archive.open(f"{each}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(value))
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            member.write(start)
            for _ in range(zeros // 2**24):
                member.write(bytes(2**24))


HUGE = 10**15
CONTENTS = {
    "header.safetensors": struct.pack("<Q", HUGE) + b"{}",
    "header": struct.pack("<Q", 2**62) + b"{}",
    "offset.safetensors": safetensors({"cls_token": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}),
    "shape.safetensors": safetensors({"cls_token": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}}, 16),
    "nested.safetensors": struct.pack("<Q", 2**20) + b"[" * 2**20,
    "zeros.pth": bytes(1000),
    "mark.pth": b"\x80\x02" + b"(" * 10**6,
}


@pytest.mark.parametrize("name", CONTENTS)
def test_false_sizes_are_one_error(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENTS[name])
    one_line(read_file, tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sparse_files_are_one_error(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    path.touch()
    os.truncate(path, 2**40)
    start = time.perf_counter()
    one_line(read_file, path)
    assert time.perf_counter() - start < 20


def write_bomb(tmp_path, kind):
    """Write a file of which a careless reader would read more than 100 MB, or 512 GiB."""
    path = tmp_path / ("w.npz" if "npz" in kind else "w.safetensors")
    if kind == "npz shape":
        npz(path, "cls", npy((1, 1, 2**30)), 2**27)
    elif kind == "npz positions":
        npz(path, "Transformer/posembed_input/pos_embedding", npy((1, 2**25, 48)), 2**27)
    elif kind == "npz header":
        npz(path, "cls", npy((), header=2**27), 2**27)
    elif kind == "npz items":
        npz(path, "Transformer/encoder_norm/bias", npy((48,), dtype="|S22369621"), 2**27)
    else:  # tensors in a sparse file
        tensors = {"cls_token": (1, 1, 2**37)} if kind == "cls" else {"pos_embed": (1, 2**32, 48)}
        position, header = 0, {}
        for name, value in weights().items():
            shape = tensors.get(name, value.shape)
            end = position + 4 * int(np.prod(shape))
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, end]}
            position = end
        path.write_bytes(safetensors(header))
        os.truncate(path, path.stat().st_size + position)
    return path


READ = """
import resource, sys
import tcvit_jax as tc
from tests.convert import cases
from tcvit_jax.convert.mapping import convert
tc.convert.from_torch(cases.weights(), cases.model("deit"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        convert(tc.convert.read_state_dict(path), cases.model("deit"))
    except tc.InputError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_tensors_of_false_sizes_are_not_read(tmp_path):
    paths = []
    for kind in ("npz shape", "npz positions", "npz header", "npz items", "cls", "positions"):
        (tmp_path / kind).mkdir()
        paths.append(str(write_bomb(tmp_path / kind, kind)))
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, *paths], cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    *messages, kibibytes = result.stdout.splitlines()
    for message, problem in zip(
        messages,
        [
            "cls: expected shape (1, 1, 48), got (1, 1, 1073741824)",
            "pos_embedding: expected shape (1, 65, 48), got (1, 33554432, 48)",
            "cannot read 'cls': ",
            "cannot read 'Transformer/encoder_norm/bias': expected numbers, got dtype |S22369621",
            "cls_token: expected shape (1, 1, 48), got (1, 1, 137438953472)",
            "pos_embed: expected shape (1, 65, 48), got (1, 4294967296, 48)",
        ],
        strict=True,
    ):
        assert problem in message
    assert int(kibibytes) < 64_000


def test_expanded_tensor_of_torch_is_not_read(torch, tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in weights().items()}
    tensors["cls_token"] = torch.zeros(1).expand(2**40)
    torch.save(tensors, tmp_path / "w.pth")
    message = one_line(convert, read_file(tmp_path / "w.pth"), cases.model("deit"))
    assert "cls_token: expected shape (1, 1, 48), got (1099511627776,)" in message


def test_photos_of_absurd_size_are_rejected(tmp_path):
    Image.new("1", (16_000, 2)).save(tmp_path / "strip.png")
    Image.new("1", (11_000, 11_000)).save(tmp_path / "large.png")
    path = tmp_path / "strip.png"
    assert one_line(read_photo, path) == f"{path}: expected a photo, got an image of 16000x2 pixels"
    assert "large.png: cannot read the photo: Image size (121000000 pixels) exceeds limit" in one_line(
        read_photo, tmp_path / "large.png"
    )
    Image.new("L", (60, 40)).save(tmp_path / "photo.png")
    assert read_photo(tmp_path / "photo.png").shape == (40, 60, 3)
