"""Self-contained checkpoints: written atomically and verified when they are loaded."""

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
def test_load_returns_what_was_saved(tmp_path, family):
    model = cases.model(family)
    variables = tc.convert.from_torch(cases.weights(family), model)
    checkpoint.save(tmp_path / "new" / "ckpt", variables, {"model": models.to_config(model)})
    loaded_model, loaded_variables, meta = tc.load(tmp_path / "new" / "ckpt")
    assert loaded_model == model
    assert meta == {"model": models.to_config(model), "checksum": checkpoint.checksum(variables)}
    jax.tree.map(np.testing.assert_array_equal, loaded_variables, variables)
    jax.tree.map(np.testing.assert_array_equal, tc.load(tmp_path / "new" / "ckpt", "variables")[1], variables)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ckpt"]


def test_missing_averages_are_an_error(tmp_path):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    with pytest.raises(tc.InputError, match="ckpt: unknown weights 'ema': must be one of variables"):
        tc.load(tmp_path / "ckpt", "ema")


def test_directory_must_be_empty(tmp_path):
    (tmp_path / "ckpt").mkdir()
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    with pytest.raises(tc.InputError, match="ckpt: already exists; choose another directory, or remove it"):
        checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)


@pytest.mark.parametrize("name", ["variables", "meta"])
def test_damaged_checkpoint_is_an_error(tmp_path, name):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    for file in (tmp_path / "ckpt" / name).rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00junk")
    with pytest.raises(tc.InputError, match="ckpt: checkpoint cannot be read: "):
        tc.load(tmp_path / "ckpt")


def test_checksum_depends_on_names_and_values():
    variables = variables_of(MODEL)
    assert checkpoint.checksum(variables) == checkpoint.checksum(jax.tree.map(np.copy, variables))
    flat = traverse_util.flatten_dict(variables)
    flat["params", "norm", "scale"], flat["params", "norm", "bias"] = (
        flat["params", "norm", "bias"],
        flat["params", "norm", "scale"],
    )
    assert checkpoint.checksum(traverse_util.unflatten_dict(flat)) != checkpoint.checksum(variables)


def test_flipped_bit_is_detected(tmp_path):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    files = [path for path in (tmp_path / "ckpt" / "variables").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    with pytest.raises(
        tc.InputError, match="ckpt: (the checksum of its variables does not match|checkpoint cannot be read: )"
    ):
        tc.load(tmp_path / "ckpt")


def test_missing_variables_are_an_error(tmp_path):
    import shutil

    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    shutil.rmtree(tmp_path / "ckpt" / "variables")
    with pytest.raises(tc.InputError, match="ckpt: variables not found; the checkpoint is incomplete"):
        tc.load(tmp_path / "ckpt")


SAVE_TO_FULL_DISK = """
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


def test_full_disk_is_an_error_and_leaves_no_files(tmp_path):
    """Limit the size of files in a process, where TensorStore raises an error that is not an `OSError`."""
    out = tmp_path / "new" / "ckpt"
    process = subprocess.run(
        [sys.executable, "-c", SAVE_TO_FULL_DISK, str(out)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert re.fullmatch(f"{out}: cannot be written: .+\n", process.stdout), process.stdout
    assert not list(tmp_path.iterdir())
