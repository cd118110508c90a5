"""Pretrained models and their configurations."""

from dataclasses import asdict

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import assembly, checkpoint, config, models
from tcvit_jax.config import Config, Reduction
from tcvit_jax.models.image_preprocessing import Preprocessing
from tests.benchmark.conftest import save


@pytest.fixture(scope="module")
def trained_checkpoint(tmp_path_factory):
    """A checkpoint with the configuration of its run: GTP, four tokens removed in each block."""
    return save(tmp_path_factory.mktemp("trained") / "gtp", 0, ["--config.reducer.name=gtp", "--config.schedule=4"])


def test_checkpoint_has_its_configuration(trained_checkpoint):
    pretrained = assembly.from_checkpoint(trained_checkpoint)
    assert pretrained.config.reduction == Reduction(tc.GTP(), 4)
    assert pretrained.model.removed == (4, 4)
    assert (pretrained.origin.seed, pretrained.origin.trained_with) == (0, tc.GTP())
    assert pretrained.origin.record.classes == tuple("0123456789")
    assert pretrained.preprocessing.mean == (0.3,)
    data = pretrained.eval_data()
    assert (data.batch_size, len(data.source)) == (200, 359)


def test_updated_reduction_changes_the_model_but_not_the_weights(trained_checkpoint):
    pretrained = assembly.from_checkpoint(trained_checkpoint)
    other = pretrained.updated({"reducer.name": "tome", "schedule": 2})
    assert (other.model.reducer, other.model.removed) == (tc.ToMe(), (2, 2))
    assert pretrained.updated({"reducer.name": "none"}).model == models.condense(pretrained.model)
    assert pretrained.updated({"eval_batch_size": 8}).model is pretrained.model
    assert other.variables is pretrained.variables and other.origin.trained_with == tc.GTP()
    with pytest.raises(tc.InputError, match="schedule=18: must be <= 17"):
        pretrained.updated({"schedule": 18})


def test_updated_data_change_the_evaluation_data(trained_checkpoint):
    pretrained = assembly.from_checkpoint(trained_checkpoint).updated({"data.eval_split": "train", "data.mean": [0.4]})
    assert pretrained.preprocessing.mean == (0.4,)
    assert len(pretrained.eval_data().source) == 1438
    with pytest.raises(
        tc.InputError, match=r"data.mean=\(0.4, 0.4, 0.4\): must be one value per channel; the model has in_chans=1"
    ):
        _ = pretrained.updated({"data.mean": (0.4,) * 3}).preprocessing
    with pytest.raises(tc.InputError, match="eval_batch_size=12: must be a positive multiple of 8"):
        pretrained.updated({"eval_batch_size": 12}).eval_data()


def test_checkpoint_without_configuration_keeps_the_reduction_of_its_model(tmp_path):
    sizes = {"img_size": 12, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}
    for name, reducer, schedule in (("dense", None, 0), ("evit", tc.EViT(), (4, 0))):
        model = tc.create_model("deit_tiny_patch16_224", reducer, schedule, num_classes=10, **sizes)
        variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.variable_shapes(model))
        meta = {
            "model": models.to_config(model),
            "preprocessing": asdict(Preprocessing((0.5,), (0.5,))),
            "classes": None,
        }
        checkpoint.save(tmp_path / name, variables, meta)
    dense, reduced = (assembly.from_checkpoint(tmp_path / name) for name in ("dense", "evit"))
    assert dense.config == Config()
    assert reduced.config.reduction == Reduction(tc.EViT(), (4, 0))
    # The reduction of the configuration is that of the model.
    assert reduced.updated({"schedule": (6, 0)}).model.removed == (6, 0)


def test_weights_may_be_a_checkpoint(trained_checkpoint):
    changes = {"model.depth": 2, "model.embed_dim": 16, "model.num_heads": 2, "weights": trained_checkpoint}
    pretrained = assembly.from_weights(config.load("configs/digits_tcvit.py", changes=changes))
    assert (pretrained.model.reducer, pretrained.origin.trained_with, pretrained.origin.seed) == (
        tc.TCViT(),
        tc.GTP(),
        0,
    )
    jax.tree.map(
        np.testing.assert_array_equal, pretrained.variables, assembly.from_checkpoint(trained_checkpoint).variables
    )
