"""Files of `torch.save`: standard types are read, other objects are refused, and nothing is executed."""

import argparse
import builtins
import collections
import datetime
import decimal
import enum
import functools
import os
import pathlib
import pickle
import struct
import types
import uuid
import zipfile

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import pickles


def load(path):
    return pickles.load(path, "use a .safetensors file")


def message_of(path):
    with pytest.raises(tc.InputError) as error:
        load(path)
    message = str(error.value)
    assert message.isprintable(), message
    # torch's advice to execute the code in the file.
    assert "weights_only=False" not in message
    assert "trust" not in message
    assert "\\x1b" not in message
    return message.replace(str(path), path.name)


STANDARD = {
    "float64": (np.float64(1e-3), np.float64(1e-3)),
    "float32": (np.float32(2), np.float32(2)),
    "int64": (np.int64(-3), np.int64(-3)),
    "bool": (np.bool_(True), np.bool_(True)),
    "str": (np.str_("abc"), np.str_("abc")),
    "path": (pathlib.Path("/a/b"), pathlib.PurePosixPath("/a/b")),
    "windows path": (pathlib.PureWindowsPath("c:/x"), pathlib.PureWindowsPath("c:/x")),
    "namespace": (argparse.Namespace(lr=np.float64(0.1)), argparse.Namespace(lr=np.float64(0.1))),
    "simple namespace": (types.SimpleNamespace(a=1), types.SimpleNamespace(a=1)),
    "ordered dict": (collections.OrderedDict(a=1), collections.OrderedDict(a=1)),
    "default dict": (collections.defaultdict(list, {"a": [1]}), {"a": [1]}),
    "counter": (collections.Counter("aab"), collections.Counter("aab")),
    "deque": (collections.deque([1, 2], maxlen=3), [1, 2]),
    "datetime": (datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)),
    "timedelta": (datetime.timedelta(3), datetime.timedelta(3)),
    "uuid": (uuid.UUID(int=5), uuid.UUID(int=5)),
    "decimal": (decimal.Decimal("1.5"), decimal.Decimal("1.5")),
    "set": ({1}, {1}),
    "frozenset": (frozenset([1]), frozenset([1])),
    "range": (range(3), (0, 3, 1)),
    "bytes": (b"ab", b"ab"),
    "complex": (1j, 1j),
}  # fmt: skip


@pytest.mark.parametrize("is_zip", [True, False])
def test_standard_types_are_read(torch, tmp_path, is_zip):
    values = {name: value for name, (value, _) in STANDARD.items()} | {"version": torch.__version__, "type": np.float32}
    torch.save(values, tmp_path / "w.pth", _use_new_zipfile_serialization=is_zip)
    loaded = load(tmp_path / "w.pth")
    for name, (_, expected) in STANDARD.items():
        assert loaded[name] == expected, name
        assert type(loaded[name]) is type(expected), name
    assert loaded["version"] == torch.__version__


def test_arrays_are_read(torch, tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"c": array, "fortran": array.T, "big": array.astype(">f4"), "int": np.arange(3), "text": np.array(["ab"])}
    torch.save({**arrays, "state": np.random.RandomState(0).get_state()}, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    for name, expected in arrays.items():
        np.testing.assert_array_equal(np.asarray(loaded[name]), expected)
        assert loaded[name].shape == expected.shape
        assert loaded[name].dtype == expected.dtype
    assert np.asarray(loaded["state"][1]).shape == (624,)


class Color(enum.Enum):
    RED = 1


class Settings:
    """A class of a user."""


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


REFUSED = {
    "enum": (lambda path: Color.RED, f"{__name__}.Color"),
    "class": (lambda path: Settings(), f"{__name__}.Settings"),
    "partial": (lambda path: functools.partial(print, 1), "functools.partial"),
    "system": (lambda path: Call(os.system, f"touch {path}"), "posix.system"),
    "mkdir": (lambda path: Call(os.mkdir, str(path)), "posix.mkdir"),
    "eval": (lambda path: Call(eval, f"open({str(path)!r}, 'w').close()"), "eval"),
    "exec": (lambda path: Call(exec, f"open({str(path)!r}, 'w').close()"), "exec"),
    "open": (lambda path: Call(open, str(path), "w"), "io.open"),
    "getattr": (lambda path: Call(getattr, "a", "upper"), "getattr"),
    "import": (lambda path: Call(builtins.__import__, "antigravity"), "__import__"),
    "numpy.load": (lambda path: Call(np.load, str(path), None, True), "numpy.load"),
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kind", REFUSED)
def test_other_objects_are_refused_by_name_and_nothing_is_executed(torch, tmp_path, kind, is_zip):
    make, name = REFUSED[kind]
    path, sentinel = tmp_path / "w.pth", tmp_path / "executed"
    torch.save({"model": {"x": torch.ones(1)}, "args": make(sentinel)}, path, _use_new_zipfile_serialization=is_zip)
    assert message_of(path) == (
        f"w.pth: contains {name!r}; only tensors and standard types are read, because others can execute code; "
        "save only the tensors: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    )
    assert not sentinel.exists()


def archive(path, content):
    """Write an archive of torch with any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")


def reduce(module, name, *arguments):
    """Return a pickle that calls a function by its name, in protocol 2."""
    content = f"c{module}\n{name}\n".encode() + b"("
    for argument in arguments:
        if isinstance(argument, int):
            content += b"J" + struct.pack("<i", argument)
        else:
            content += b"X" + struct.pack("<I", len(argument)) + argument.encode()
    return b"\x80\x02" + content + b"tR."


@pytest.mark.parametrize(
    "content",
    [
        # Names that are in the table of standard types, called with other arguments, and names below them.
        reduce("builtins", "list", "abc"),
        reduce("pathlib", "PosixPath.touch", "{path}"),
        reduce("pathlib", "Path.home"),
        reduce("argparse", "Namespace.__init__.__globals__"),
        reduce("numpy", "dtype", "O8"),
        reduce("numpy", "dtype", "V8"),
        reduce("numpy._core.multiarray", "scalar", 1, "a"),
        reduce("datetime", "datetime", "abc"),
        reduce("uuid", "os.system", "touch {path}"),
        reduce("__builtin__", "eval", "open('{path}', 'w')"),
        reduce("nt", "system", "touch {path}"),
        reduce("os", "system", "touch {path}"),
        reduce("torch", "load", "{path}"),
        reduce("torch.hub", "load", "{path}"),
        reduce("builtins", "bytearray", 2**27)[:-2] + b"R" * 20 + b".",
        b"\x80\x02" + b"(" * 1000 + b".",
        b"\x80\x02(lp0\nh\x00a.",
        b"",
    ],
)
def test_crafted_pickles_are_refused(torch, tmp_path, content):
    path, sentinel = tmp_path / "w.pth", tmp_path / "executed"
    archive(path, content.replace(b"{path}", str(sentinel).encode()))
    message_of(path)
    path.write_bytes(content.replace(b"{path}", str(sentinel).encode()))
    message_of(path)
    assert not sentinel.exists()


def test_paths_stand_for_no_file(torch, tmp_path):
    """A path that is read has no method that reads or writes the file."""
    torch.save({"path": tmp_path / "x"}, tmp_path / "w.pth")
    path = load(tmp_path / "w.pth")["path"]
    assert path == pathlib.PurePosixPath(tmp_path / "x")
    assert not hasattr(path, "touch")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_are_refused(torch, tmp_path, protocol):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    assert f"expected pickle protocol 2 of torch.save, got {protocol}; save only the tensors" in message_of(
        tmp_path / "w.pkl"
    )


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_refused(torch, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("w/data.pkl", b"\x80\x02}.")
        file.writestr("w/constants.pkl", b"\x80\x02).")
    assert message_of(tmp_path / "w.pt").startswith("w.pt: expected tensors, got a TorchScript archive; save only")


def test_decompression_bombs_are_refused(torch, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("archive/data/0", bytes(10**7))
    assert (tmp_path / "w.pth").stat().st_size < 10**5
    assert message_of(tmp_path / "w.pth") == "w.pth: expected an uncompressed archive, as torch.save writes it"


def test_only_regular_files_are_opened(torch, tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert message_of(tmp_path / "pipe.pth") == "pipe.pth: expected a file, got a pipe"
    assert message_of(pathlib.Path("/dev/zero")) == "zero: expected a file, got a device"


def test_caller_keeps_its_own_allowed_types(torch, tmp_path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        torch.save({"a": argparse.Namespace(b=1)}, tmp_path / "w.pth")
        load(tmp_path / "w.pth")
        assert torch.load(tmp_path / "w.pth", weights_only=True)["a"].b == 1
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "w.pth", weights_only=True)


def test_requires_torch(tmp_path, monkeypatch):
    import sys

    (tmp_path / "w.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert message_of(tmp_path / "w.pth") == (
        'w.pth requires torch, which is not installed: pip install "tcvit_jax[convert]", or use a .safetensors file'
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.9.1+cpu"))
    assert "requires torch>=2.10: older versions such as 2.9.1+cpu can execute code in a pickle" in message_of(
        tmp_path / "w.pth"
    )
