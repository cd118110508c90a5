"""Pretrained models and the configurations that they are used with."""

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import assembly, checkpoint, config, models
from tcvit_jax.config import Config, Reduction
from tests.benchmark.conftest import save


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint with the configuration of the run that wrote it: GTP, four tokens a block."""
    return save(tmp_path_factory.mktemp("trained") / "gtp", 0, ["--config.reducer.name=gtp", "--config.schedule=4"])


def test_a_checkpoint_brings_its_configuration(trained):
    found = assembly.from_checkpoint(trained)
    assert found.config.reduction == Reduction(tc.GTP(), 4)
    assert found.model.removed == (4, 4)
    assert (found.seed, found.trained_with, len(found.classes)) == (0, tc.GTP(), 10)
    assert found.preprocessing.mean == (0.3,)
    data = found.eval_data()
    assert (data.batch_size, len(data.source)) == (200, 359)


def test_changes_of_the_reduction_change_the_model_and_not_the_weights(trained):
    found = assembly.from_checkpoint(trained)
    other = found.updated({"reducer.name": "tome", "schedule": 2})
    assert (other.model.reducer, other.model.removed) == (tc.ToMe(), (2, 2))
    assert found.updated({"reducer.name": "none"}).model == models.condense(found.model)
    assert found.updated({"eval_batch_size": 8}).model is found.model
    assert other.variables is found.variables and other.trained_with == tc.GTP()
    with pytest.raises(tc.InputError, match="schedule=18 removes 36 of 36 patch tokens"):
        found.updated({"schedule": 18})


def test_changes_of_the_data_change_what_is_evaluated(trained):
    found = assembly.from_checkpoint(trained).updated({"data.eval_split": "train", "data.mean": [0.4]})
    assert found.preprocessing.mean == (0.4,)
    assert len(found.eval_data().source) == 1438
    with pytest.raises(tc.InputError, match=r"data.mean=\(0.4, 0.4, 0.4\): must be one value for each of 1 channels"):
        _ = found.updated({"data.mean": (0.4,) * 3}).preprocessing
    with pytest.raises(tc.InputError, match="eval_batch_size=12 cannot be shared by 8 devices"):
        found.updated({"eval_batch_size": 12}).eval_data()


def test_a_checkpoint_without_a_configuration_is_reduced_as_its_model(tmp_path):
    sizes = {"img_size": 12, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}
    for name, reducer, schedule in (("dense", None, 0), ("evit", tc.EViT(), (4, 0))):
        model = tc.create_model("deit_tiny_patch16_224", reducer, schedule, num_classes=10, **sizes)
        variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.variable_shapes(model))
        meta = {"model": models.to_config(model), "preprocessing": {"mean": [0.5], "std": [0.5]}, "classes": None}
        checkpoint.save(tmp_path / name, variables, meta)
    dense, reduced = (assembly.from_checkpoint(tmp_path / name) for name in ("dense", "evit"))
    assert dense.config == Config()
    assert reduced.config.reduction == Reduction(tc.EViT(), (4, 0))
    # The reduction that a configuration says is the one that the model has.
    assert reduced.updated({"schedule": (6, 0)}).model.removed == (6, 0)


def test_weights_of_a_configuration_may_be_a_checkpoint(trained):
    changes = {"model.depth": 2, "model.embed_dim": 16, "model.num_heads": 2, "weights": trained}
    found = assembly.from_weights(config.load("configs/digits_tcvit.py", changes=changes))
    assert (found.model.reducer, found.trained_with, found.seed) == (tc.TCViT(), tc.GTP(), 0)
    jax.tree.map(np.testing.assert_array_equal, found.variables, assembly.from_checkpoint(trained).variables)
