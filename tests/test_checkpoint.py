"""Self-contained checkpoints: written atomically and verified when they are loaded."""

import functools
import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress

import jax
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax import checkpoint, manifest, models, sharding
from tests.conftest import ROOT
from tests.convert import cases
from tests.damage import DAMAGES
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
    jax.tree.map(np.testing.assert_array_equal, tc.load(tmp_path / "new" / "ckpt", weights="variables")[1], variables)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ckpt"]


def test_missing_averages_are_an_error(tmp_path):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    with pytest.raises(tc.InputError, match="ckpt: unknown weights 'ema': must be one of variables"):
        tc.load(tmp_path / "ckpt", weights="ema")


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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint, which a test damages and restores."""
    folder = tmp_path_factory.mktemp("saved") / "ckpt"
    checkpoint.save(folder, variables_of(MODEL), META)
    return folder


@pytest.fixture
def backup(saved, tmp_path):
    """Yield the checkpoint, and replace it by a copy of its former self afterwards."""
    shutil.copytree(saved, tmp_path / "backup")
    yield saved
    shutil.rmtree(saved)
    shutil.copytree(tmp_path / "backup", saved)


@given(st.data())
def test_flipped_bit_of_any_file_is_detected(saved, data):
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    assert {path.relative_to(saved).parts[0] for path in files} == {"manifest.json", "meta", "variables"}
    path = data.draw(st.sampled_from(files))
    original = path.read_bytes()
    content = bytearray(original)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with pytest.raises(tc.InputError, match="ckpt: checkpoint cannot be read: ") as error:
            tc.load(saved)
        assert "\n" not in str(error.value)
        if path.parent.name == "meta":
            with pytest.raises(tc.InputError, match="ckpt: checkpoint cannot be read: "):
                checkpoint.read_meta(saved)
        # The metadata are compared with their own entries of the manifest, and are right if those are.
        meta = None
        with suppress(tc.InputError):
            meta = checkpoint.read_meta(saved)
    finally:
        path.write_bytes(original)
    assert meta is None or meta == checkpoint.read_meta(saved)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "meta/metadata", "variables/_METADATA", "variables/manifest.ocdbt"])
def test_replaced_file_is_an_error(backup, damage, name):
    DAMAGES[damage](backup / name)
    start = time.monotonic()
    with pytest.raises(tc.InputError, match="ckpt: (checkpoint cannot be read: |manifest.json not found)") as error:
        tc.load(backup)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert time.monotonic() - start < 1


def test_unlisted_file_is_an_error_unless_it_is_hidden(backup):
    (backup / "variables" / ".DS_Store").write_text("")
    (backup / ".nfs0001").mkdir()
    tc.load(backup)
    (backup / "variables" / "d" / "extra").write_text("")
    with pytest.raises(tc.InputError, match="variables/d/extra: not listed in manifest.json"):
        tc.load(backup)


def test_linked_directories_are_read(saved, tmp_path):
    (tmp_path / "ckpt").mkdir()
    for path in saved.iterdir():
        (tmp_path / "ckpt" / path.name).symlink_to(path)
    assert tc.load(tmp_path / "ckpt")[0] == MODEL


SPLIT = {"name": "digits", "dir": "", "split": "train", "images": 1, "fingerprint": "0a"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": None}, "model: expected `object`, got `null`"),
        ({"model": {"name": "deit_small_patch16_224"}}, "model: object missing required field `overrides`"),
        ({"model": {**META["model"], "removed": [1.5]}}, r"model.removed\[0\]: expected `int`, got `float`"),
        ({"model": {**META["model"], "reducer": ["gtp"]}}, "model.reducer: expected `object`, got `array`"),
        ({"model": {**META["model"], "overrides": {"depth": "two"}}}, "meta: model: depth='two': must be an integer"),
        ({"model": {**META["model"], "name": "deit_smal"}}, "meta: model: unknown model 'deit_smal'"),
        ({"preprocessing": [0.5]}, "preprocessing: expected `object`, got `array`"),
        ({"classes": "ant"}, "classes: expected `array | null`, got `str`"),
        ({"classes": ["ant", 5]}, r"classes\[1\]: expected `str`, got `int`"),
        ({"step": True}, "step: expected `int`, got `bool`"),
        ({"step": -1}, "step: expected `int` >= 0"),
        ({"step": 2**40}, "step: expected `int` <= 2147483647"),
        ({"config": []}, "config: expected `object | null`, got `array`"),
        ({"versions": ["0.1"]}, "versions: expected `object`, got `array`"),
        ({"data": {"images": 1}}, "data: expected `array`, got `object`"),
        ({"data": [SPLIT | {"images": -1}]}, r"data\[0\].images: expected `int` >= 0"),
        ({"data": [SPLIT | {"fingerprint": "xy"}]}, r"data\[0\].fingerprint: expected"),
        ({"other": functools.reduce(lambda inner, _: [inner], range(50), [])}, "expected at most 32 levels of nesting"),
    ],
)
def test_metadata_of_wrong_types_are_an_error(backup, changes, problem):
    """The manifest matches: the checkpoint was written like this."""
    file = backup / "meta" / "metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    manifest.write(backup)
    with pytest.raises(tc.InputError, match=f"ckpt.*{problem}") as error:
        tc.load(backup)
    assert "\n" not in str(error.value)


def test_missing_device_is_not_a_damaged_checkpoint(saved, monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(sharding, "data_mesh", fail)
    with pytest.raises(tc.InputError, match="device cannot be used: Unable to initialize backend 'cuda'"):
        tc.load(saved)


def test_missing_variables_are_an_error(tmp_path):
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
