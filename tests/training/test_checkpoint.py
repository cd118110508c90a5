"""Checkpoints: four items, read together or alone, and directories that are none."""

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
from tests.models.builders import small

MODEL = small(tc.GTP(), 8, depth=2)
MESH = sharding.data_mesh()
ONE = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])
INIT = make_init(MODEL, optax.adamw(1e-3), 0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with three checkpoints, of which the newest two are kept."""
    run = tmp_path_factory.mktemp("runs") / "saved"
    state = jax.jit(INIT, out_shardings=sharding.replicated(MESH))()
    with Checkpoints(run) as checkpoints:
        for step in (3, 6, 9):
            checkpoints.save(step, state, {"step": step, "model": models.to_config(MODEL)})
    return run, state


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_items_and_retention(saved):
    run, _ = saved
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["6", "9"]
    assert {"variables", "ema", "opt_state", "meta"} <= {path.name for path in (run / "checkpoints" / "9").iterdir()}


def test_restore_gives_back_every_bit_on_the_mesh(saved):
    run, state = saved
    with Checkpoints(run) as checkpoints:
        assert checkpoints.latest() == 9
        restored = checkpoints.restore(9, jax.eval_shape(INIT), MESH, MODEL.PARAMETERS)
    assert int(restored.step) == 9
    assert_equal((restored.variables, restored.ema, restored.opt_state), (state.variables, state.ema, state.opt_state))
    assert restored.variables["params"]["head"]["kernel"].sharding.is_equivalent_to(sharding.replicated(MESH), 2)


@pytest.mark.parametrize("where", [".", "checkpoints", "checkpoints/6"])
def test_load_needs_the_directory_alone(saved, where):
    run, state = saved
    model, variables, meta = load(run / where)
    assert model == MODEL
    assert meta["step"] == (6 if where.endswith("6") else 9)
    assert_equal(variables, state.ema)
    assert_equal(load(run / where, "variables")[1], state.variables)


def test_a_directory_without_a_checkpoint_names_its_neighbours(saved):
    run, _ = saved
    with pytest.raises(tc.InputError) as caught:
        load(run.parent / "saevd")
    assert str(caught.value) == f"{run.parent}/saevd: checkpoint not found; runs with checkpoints: {run}"
    with pytest.raises(tc.InputError, match="^/nonexistent/run: checkpoint not found$"):
        load("/nonexistent/run")


def test_unknown_weights(saved):
    with pytest.raises(tc.InputError, match=": unknown weights 'emma': did you mean 'ema'"):
        load(saved[0], "emma")


@pytest.mark.parametrize("broken", ["ema", "meta"])
def test_a_damaged_checkpoint_is_one_line(saved, tmp_path, broken):
    run = tmp_path / "run"
    shutil.copytree(saved[0], run)
    for file in (run / "checkpoints" / "9" / broken).rglob("*"):
        if file.is_file():
            file.write_bytes(b"\x00junk")
    with pytest.raises(tc.InputError, match="cannot be read") as caught:
        load(run)
    assert "\n" not in str(caught.value)
    assert str(run / "checkpoints" / "9") in str(caught.value)


def test_a_save_that_was_cut_short_is_no_checkpoint_and_is_removed(saved, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved[0], run)
    (run / "checkpoints" / "9").rename(run / "checkpoints" / "12.orbax-checkpoint-tmp")
    with Checkpoints(run) as checkpoints:
        assert checkpoints.latest() == 6
        assert load(run)[2]["step"] == 6
        # What is left of it is removed in the background.
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and len(list((run / "checkpoints").iterdir())) > 1:
            time.sleep(0.05)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["6"]


@pytest.mark.parametrize("mesh", [sharding.make_mesh(2, 4), ONE], ids=["shared by four", "one device"])
def test_a_checkpoint_is_restored_on_other_devices(saved, mesh):
    """Written whole by eight, read by others: on one, or each parameter in parts; and back again."""
    run, state = saved
    with Checkpoints(run) as checkpoints:
        restored = checkpoints.restore(9, jax.eval_shape(INIT), mesh, MODEL.PARAMETERS)
    assert_equal((restored.variables, restored.opt_state), (state.variables, state.opt_state))
    kernel = restored.variables["params"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    assert kernel.sharding.device_set == set(mesh.devices.flat)
    assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // sharding.model_size(mesh)


def test_parts_of_parameters_are_saved_and_anybody_loads_them(saved, tmp_path):
    _, state = saved
    mesh = sharding.make_mesh(1, 8)
    shared = jax.device_put(state, sharding.shardings(state, mesh, MODEL.PARAMETERS))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, shared, {"step": 4, "model": models.to_config(MODEL)})
    assert_equal(load(tmp_path)[1], state.ema)
    with Checkpoints(tmp_path) as checkpoints:
        assert_equal(checkpoints.restore(4, jax.eval_shape(INIT), MESH, MODEL.PARAMETERS).variables, state.variables)
        assert checkpoints.meta(4)["step"] == 4


def test_the_same_step_is_saved_once(saved, tmp_path):
    _, state = saved
    with Checkpoints(tmp_path) as checkpoints:
        for _ in range(2):
            checkpoints.save(5, state, {"step": 5, "model": models.to_config(MODEL)})
        checkpoints.wait()
        assert checkpoints.latest() == 5


def test_no_save_begins_where_less_room_is_left_than_the_newest_takes(saved, tmp_path, monkeypatch):
    """The arrays alone would fit; Orbax would fail in the middle."""
    run, state = tmp_path / "run", saved[1]
    shutil.copytree(saved[0], run)
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=arrays))
    refused = pytest.raises(tc.InputError, match="cannot save step 12 .*: No space left on device; .* is of step 9")
    with Checkpoints(run) as checkpoints, refused:
        checkpoints.save(12, state, {"step": 12})
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["6", "9"]


def test_a_save_that_fails_in_the_background_is_one_line(saved, tmp_path, monkeypatch):
    def fail(manager):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\n  in a thread")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, saved[1], {"step": 5})
        checkpoints.wait()
        monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", fail)
        for attempt in (checkpoints.wait, lambda: checkpoints.save(10, saved[1], {"step": 10})):
            with pytest.raises(tc.InputError, match="cannot save step 5 .*: No space left on device; .* is of step 5"):
                attempt()
        monkeypatch.undo()
