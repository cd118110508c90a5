"""Checkpoints of their own: written whole or not at all, and read with nothing else."""

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import checkpoint, models
from tests.convert import cases
from tests.models.test_vit import small, variables_of

MODEL = small(tc.GTP(), 8)
META = {"model": models.to_config(MODEL), "classes": None}


@pytest.mark.parametrize("family", ["deit", "lvvit"])
def test_what_is_saved_is_loaded(tmp_path, family):
    model = cases.model(family)
    variables = tc.convert.from_torch(cases.weights(family), model)
    checkpoint.save(tmp_path / "new" / "ckpt", variables, {"model": models.to_config(model)})
    found, loaded, meta = tc.load(tmp_path / "new" / "ckpt")
    assert found == model
    assert meta == {"model": models.to_config(model)}
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    jax.tree.map(np.testing.assert_array_equal, tc.load(tmp_path / "new" / "ckpt", "variables")[1], variables)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ckpt"]


def test_there_are_no_averages_to_load(tmp_path):
    checkpoint.save(tmp_path / "ckpt", variables_of(MODEL), META)
    with pytest.raises(tc.InputError, match="unknown weights of '.*ckpt': 'ema': choose one of: variables"):
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
