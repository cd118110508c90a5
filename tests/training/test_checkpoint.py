"""Checkpoints: saving, restoring and loading, and the errors of damaged or missing ones."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tcvit_jax.checkpoint import load
from tcvit_jax.training.checkpoint import Checkpoints
from tcvit_jax.training.step import make_init
from tests.damage import flip_bit
from tests.models.builders import small

MODEL = small(tc.GTP(), 8, depth=2)
MESH = sharding.data_mesh()
ONE = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])
INIT = make_init(MODEL, optax.adamw(1e-3), 0)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
    """A run that saved three checkpoints and keeps the newest two, and its state."""
    run = tmp_path_factory.mktemp("runs") / "saved"
    state = jax.jit(INIT, out_shardings=sharding.replicated(MESH))()
    with Checkpoints(run) as checkpoints:
        for step in (3, 6, 9):
            checkpoints.save(step, state, {"step": step, "model": models.to_config(MODEL)})
    return run, state


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_two_newest_checkpoints_are_kept(saved_run):
    run, _ = saved_run
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["6", "9"]
    assert {"variables", "ema", "opt_state", "meta"} <= {path.name for path in (run / "checkpoints" / "9").iterdir()}


def test_restore_returns_the_saved_state_on_the_mesh(saved_run):
    run, state = saved_run
    with Checkpoints(run) as checkpoints:
        assert checkpoints.latest_step() == 9
        restored = checkpoints.restore(9, jax.eval_shape(INIT), MESH, MODEL.PARAMETERS)
    assert int(restored.step) == 9
    assert_equal((restored.variables, restored.ema, restored.opt_state), (state.variables, state.ema, state.opt_state))
    assert restored.variables["params"]["head"]["kernel"].sharding.is_equivalent_to(sharding.replicated(MESH), 2)


@pytest.mark.parametrize("where", [".", "checkpoints", "checkpoints/6"])
def test_load_accepts_run_and_checkpoint_directories(saved_run, where):
    run, state = saved_run
    model, variables, meta = load(run / where)
    assert model == MODEL
    assert meta["step"] == (6 if where.endswith("6") else 9)
    assert_equal(variables, state.ema)
    assert_equal(load(run / where, "variables")[1], state.variables)


def test_load_of_a_missing_checkpoint_names_neighboring_runs(saved_run):
    run, _ = saved_run
    with pytest.raises(tc.InputError) as error:
        load(run.parent / "saevd")
    assert str(error.value) == f"{run.parent}/saevd: checkpoint not found; runs with checkpoints: {run}"
    with pytest.raises(tc.InputError, match="^/nonexistent/run: checkpoint not found$"):
        load("/nonexistent/run")


def test_load_rejects_unknown_weights(saved_run):
    with pytest.raises(tc.InputError, match=": unknown weights 'emma': did you mean 'ema'"):
        load(saved_run[0], "emma")


@pytest.mark.parametrize("item", ["ema", "meta"])
def test_damaged_checkpoint_is_a_one_line_error(saved_run, tmp_path, item):
    run = tmp_path / "run"
    shutil.copytree(saved_run[0], run)
    for file in (run / "checkpoints" / "9" / item).rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00junk")
    with pytest.raises(tc.InputError, match="cannot be read") as error:
        load(run)
    assert "\n" not in str(error.value)
    assert str(run / "checkpoints" / "9") in str(error.value)


@pytest.fixture
def copied_run(saved_run, tmp_path):
    """A copy of the run, to damage it."""
    return shutil.copytree(saved_run[0], tmp_path / "run")


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("item", ["variables", "ema", "opt_state", "meta"])
def test_manifest_lists_every_file(saved_run, item):
    folder = saved_run[0] / "checkpoints" / "9"
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"
    }
    assert any(name.startswith(f"{item}/") for name in files)


def test_load_names_the_intact_checkpoint_before_a_damaged_one(copied_run):
    folder = copied_run / "checkpoints"
    damaged = largest_file(folder / "9" / "opt_state")
    flip_bit(damaged, 0.5)
    expected = (
        f"{folder}/9: checkpoint cannot be read: {damaged.relative_to(folder / '9')}: its content has changed since it "
        f"was written; the checkpoint {folder}/6 is intact"
    )
    for read in (load, lambda run: load(run / "checkpoints" / "9")):
        with pytest.raises(tc.InputError) as error:
            read(copied_run)
        assert str(error.value) == expected
    assert load(folder / "6")[2]["step"] == 6
    flip_bit(folder / "6" / "_CHECKPOINT_METADATA", 0.5)
    with pytest.raises(tc.InputError, match="was written; the checkpoint is damaged$"):
        load(copied_run)


def test_damaged_newest_checkpoint_is_not_hidden_by_an_older_one(copied_run):
    """Without `meta`, the newest directory must still be the one to load."""
    shutil.rmtree(copied_run / "checkpoints" / "9" / "meta")
    with pytest.raises(
        tc.InputError, match="checkpoints/9: checkpoint cannot be read: meta/.*: not found; .*/6 is intact"
    ):
        load(copied_run)


@pytest.mark.parametrize("item", ["variables", "opt_state", "meta"])
def test_resume_falls_back_to_the_intact_checkpoint(saved_run, copied_run, item):
    folder, state = copied_run / "checkpoints", saved_run[1]
    damaged = largest_file(folder / "9" / item)
    flip_bit(damaged, 0.5)
    with Checkpoints(copied_run) as checkpoints:
        problem = f"{damaged.relative_to(folder / '9')}: its content has changed since it was written"
        assert checkpoints.notices == [f"checkpoint {folder}/9 is damaged ({problem}): renamed to 9.damaged-1"]
        assert checkpoints.latest_step() == 6
        assert_equal(checkpoints.restore(6, jax.eval_shape(INIT), MESH, MODEL.PARAMETERS).ema, state.ema)
        checkpoints.save(9, state, {"step": 9, "model": models.to_config(MODEL)})
    assert sorted(path.name for path in folder.iterdir()) == ["6", "9", "9.damaged-1"]
    assert_equal(load(copied_run)[1], state.ema)
    with Checkpoints(copied_run) as checkpoints:
        assert checkpoints.notices == []


def test_resume_falls_back_from_a_lost_manifest(copied_run):
    folder = copied_run / "checkpoints"
    (folder / "9" / "manifest.json").unlink()
    with Checkpoints(copied_run) as checkpoints:
        notice = f"checkpoint {folder}/9 is damaged (manifest.json: not found): renamed to 9.damaged-1"
        assert checkpoints.notices == [notice]
        assert checkpoints.latest_step() == 6


def test_resume_without_an_intact_checkpoint_is_an_error(copied_run):
    folder = copied_run / "checkpoints"
    flip_bit(folder / "6" / "commit_success.txt", 0.5)
    (folder / "9" / "meta" / "metadata").unlink()
    with pytest.raises(tc.InputError) as error:
        Checkpoints(copied_run)
    assert str(error.value) == (
        f"{folder}: all checkpoints are damaged (6/commit_success.txt: its content has changed since it was written, "
        "9/meta/metadata: not found); remove the directory to start again"
    )
    assert sorted(path.name for path in folder.iterdir()) == ["6", "9"]


def test_step_must_be_the_name_of_the_directory(copied_run):
    (copied_run / "checkpoints" / "9").rename(copied_run / "checkpoints" / "12")
    raises = pytest.raises(tc.InputError, match="12/meta: expected step=12, the name of its directory, got 9")
    with Checkpoints(copied_run) as checkpoints, raises:
        checkpoints.meta(12)


@pytest.mark.parametrize("name", ["²", "007", "10.damaged-1", "٣", "-1", "1e3"])
def test_other_names_are_no_steps(copied_run, name):
    folder = copied_run / "checkpoints"
    shutil.copytree(folder / "9", folder / name)
    assert load(copied_run)[2]["step"] == 9
    with Checkpoints(copied_run) as checkpoints:
        assert checkpoints.latest_step() == 9


def test_checkpoint_without_manifest_is_loaded_with_a_warning(copied_run):
    """Checkpoints of earlier versions have no manifest, and do not say in their metadata that they have one."""
    folder = copied_run / "checkpoints" / "9"
    (folder / "manifest.json").unlink()
    with pytest.raises(tc.InputError, match="9: checkpoint cannot be read: manifest.json: not found; .*/6 is intact"):
        load(copied_run)
    meta = json.loads((folder / "meta" / "metadata").read_text())
    del meta["has_manifest"]
    (folder / "meta" / "metadata").write_text(json.dumps(meta))
    with pytest.warns(UserWarning, match="9: not verified, because an earlier version wrote it without a manifest"):
        assert load(copied_run)[2]["step"] == 9
    (folder / "ema" / "_METADATA").unlink()
    os.mkfifo(folder / "ema" / "_METADATA")
    with pytest.raises(tc.InputError, match="_METADATA: expected a file, got a pipe"):
        load(copied_run)


@pytest.mark.parametrize("suffix", ["", "-draft"])
def test_incomplete_save_is_ignored_and_removed(saved_run, tmp_path, suffix):
    run = tmp_path / "run"
    shutil.copytree(saved_run[0], run)
    (run / "checkpoints" / "9").rename(run / "checkpoints" / f"12.orbax-checkpoint-tmp{suffix}")
    with Checkpoints(run) as checkpoints:
        assert checkpoints.latest_step() == 6
        assert load(run)[2]["step"] == 6
        # The incomplete save is removed in the background.
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(list((run / "checkpoints").iterdir())) > 1:
            time.sleep(0.05)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["6"]


@pytest.mark.parametrize("mesh", [sharding.make_mesh(2, 4), ONE], ids=["sharded over four", "one device"])
def test_checkpoint_is_restored_on_another_mesh(saved_run, mesh):
    """Saved replicated on eight devices, restored sharded or on one device."""
    run, state = saved_run
    with Checkpoints(run) as checkpoints:
        restored = checkpoints.restore(9, jax.eval_shape(INIT), mesh, MODEL.PARAMETERS)
    assert_equal((restored.variables, restored.opt_state), (state.variables, state.opt_state))
    kernel = restored.variables["params"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    assert kernel.sharding.device_set == set(mesh.devices.flat)
    assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // sharding.model_size(mesh)


def test_sharded_checkpoint_is_loaded_and_restored(saved_run, tmp_path):
    _, state = saved_run
    mesh = sharding.make_mesh(1, 8)
    sharded = jax.device_put(state, sharding.shardings(state, mesh, MODEL.PARAMETERS))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, sharded, {"step": 4, "model": models.to_config(MODEL)})
    assert_equal(load(tmp_path)[1], state.ema)
    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(4, jax.eval_shape(INIT), MESH, MODEL.PARAMETERS).variables, state.variables)
        assert checkpoints.meta(4)["step"] == 4


def test_same_step_is_saved_once(saved_run, tmp_path):
    _, state = saved_run
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(2):
            checkpoints.save(5, state, {"step": 5, "model": models.to_config(MODEL)})
        checkpoints.wait()
        assert checkpoints.latest_step() == 5


def test_save_requires_the_disk_space_of_the_newest_checkpoint(saved_run, tmp_path, monkeypatch):
    """The arrays alone would fit, but Orbax would fail during the save."""
    run, state = tmp_path / "run", saved_run[1]
    shutil.copytree(saved_run[0], run)
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=arrays))
    raises = pytest.raises(
        tc.InputError, match="cannot save step 12: No space left on device; .* checkpoint is step 9;"
    )
    with Checkpoints(run) as checkpoints, raises:
        checkpoints.save(12, state, {"step": 12})
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["6", "9"]


def test_failed_background_save_is_a_one_line_error(saved_run, tmp_path, monkeypatch):
    def fail(manager):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\n  in a thread")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, saved_run[1], {"step": 5})
        checkpoints.wait()
        monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", fail)
        for attempt in (checkpoints.wait, lambda: checkpoints.save(10, saved_run[1], {"step": 10})):
            with pytest.raises(
                tc.InputError, match="cannot save step 5: No space left on device; .* checkpoint is step 5;"
            ):
                attempt()
        monkeypatch.undo()
