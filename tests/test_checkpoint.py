"""Checkpoints of their own: written whole or not at all, and read with nothing else."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

import tcvit_jax as tc
from tcvit_jax import checkpoint, models
from tests.conftest import ROOT
from tests.convert import cases
from tests.models.builders import small, variables_of

MODEL = small(tc.GTP(), 8, depth=2)
META = {"model": models.to_config(MODEL), "classes": None}


@pytest.mark.parametrize("family", ["deit", "lvvit"])
def test_what_is_saved_is_loaded(tmp_path, family):
    model = cases.model(family)
    variables = tc.convert.from_torch(cases.weights(family), model)
    checkpoint.save(tmp_path / "new" / "ckpt", variables, {"model": models.to_config(model)})
    found, loaded, meta = tc.load(tmp_path / "new" / "ckpt")
    assert found == model
    assert meta == {"model": models.to_config(model), "checksum": checkpoint.checksum(variables)}
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    jax.tree.map(np.testing.assert_array_equal, tc.load(tmp_path / "new" / "ckpt", "variables")[1], variables)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ckpt"]


def test_there_are_no_averages_to_load(tmp_path):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    with pytest.raises(tc.InputError, match="unknown weights of '.*ckpt': 'ema': must be one of variables"):
        tc.load(tmp_path / "ckpt", "ema")


def test_an_empty_directory_is_filled_and_a_full_one_is_not(tmp_path):
    (tmp_path / "ckpt").mkdir()
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    with pytest.raises(tc.InputError, match="ckpt' is there already: choose another directory, or remove it"):
        checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)


@pytest.mark.parametrize("name", ["variables", "meta"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, name):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    for file in (tmp_path / "ckpt" / name).rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00junk")
    with pytest.raises(tc.InputError, match="checkpoint '.*ckpt' cannot be read: "):
        tc.load(tmp_path / "ckpt")


def test_checksum_is_of_names_and_values():
    variables = variables_of(MODEL)
    assert checkpoint.checksum(variables) == checkpoint.checksum(jax.tree.map(np.copy, variables))
    flat = traverse_util.flatten_dict(variables)
    flat["params", "norm", "scale"], flat["params", "norm", "bias"] = (
        flat["params", "norm", "bias"],
        flat["params", "norm", "scale"],
    )
    assert checkpoint.checksum(traverse_util.unflatten_dict(flat)) != checkpoint.checksum(variables)


def test_one_wrong_bit_is_noticed(tmp_path):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    files = [path for path in (tmp_path / "ckpt" / "variables").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    with pytest.raises(tc.InputError, match="checkpoint '.*ckpt' (is damaged|cannot be read): "):
        tc.load(tmp_path / "ckpt")


def test_without_variables_there_is_nothing_to_load(tmp_path):
    import shutil

    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    shutil.rmtree(tmp_path / "ckpt" / "variables")
    with pytest.raises(tc.InputError, match="checkpoint '.*ckpt' cannot be read: it holds no variables"):
        tc.load(tmp_path / "ckpt")


FULL = """
import resource, signal, sys
import numpy as np
from tcvit_jax import InputError, checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save(sys.argv[1], {"params": {"x": np.random.default_rng(0).standard_normal(100_000)}}, {})
except InputError as error:
    print(error)
"""


def test_a_disk_that_is_full_is_one_error_and_nothing_is_left(tmp_path):
    """A real limit on the size of files; TensorStore's error is no OSError."""
    out = tmp_path / "new" / "ckpt"
    done = subprocess.run([sys.executable, "-c", FULL, str(out)], capture_output=True, text=True, cwd=ROOT, check=True)
    assert re.fullmatch(f"cannot write '{out}': .+\n", done.stdout), done.stdout
    assert not list(tmp_path.iterdir())
