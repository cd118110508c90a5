"""The recipe of a configuration, and the checks of its teacher."""

from dataclasses import asdict
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import config, models, sharding
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.training import recipe

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def objective_of(changes):
    loaded = config.load(CONFIGS / "digits_gtp.py", changes=changes)
    return recipe.build(loaded, sharding.data_mesh()).objective


def test_dense_teacher_is_the_model_without_reduction():
    loaded = config.load(f"{CONFIGS / 'deit_ti_gtp.py'}:selfdistill")
    result = recipe.build(loaded, sharding.data_mesh())
    assert result.objective.teacher.model == models.condense(result.model)
    # The teacher uses the initial weights of the run.
    assert result.teacher_variables is None


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher": "dense"}, "distill.teacher='dense' requires weights: set --config.weights=PATH"),
    ({"teacher": "/nonexistent/run"}, "distill.teacher: /nonexistent/run: checkpoint not found"),
])  # fmt: skip
def test_invalid_teacher_is_an_error(changes, message):
    with pytest.raises(tc.InputError) as error:
        objective_of({f"distill.{name}": value for name, value in changes.items()})
    assert str(error.value) == message


def test_teacher_must_match_the_model(tmp_path):
    import jax
    import numpy as np

    from tcvit_jax import checkpoint

    sizes = {
        "img_size": 12,
        "patch_size": 2,
        "in_chans": 1,
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "num_classes": 10,
    }
    for name, override in (("classes", {"num_classes": 9}), ("size", {"img_size": 14}), ("width", {})):
        teacher = tc.create_model("deit_tiny_patch16_224", **{**sizes, **override})
        variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.variable_shapes(teacher))
        meta = {
            "model": models.to_config(teacher),
            "preprocessing": asdict(Preprocessing((0.5,), (0.5,))),
            "classes": None,
        }
        checkpoint.save(tmp_path / name, variables, meta)
    for name, message in (
        ("classes", "expected num_classes=10, got 9; choose a teacher that matches the model"),
        ("size", "expected img_size=(12, 12), got (14, 14); choose a teacher that matches the model"),
    ):
        with pytest.raises(tc.InputError) as error:
            objective_of({"distill.teacher": str(tmp_path / name)})
        assert str(error.value) == f"distill.teacher={str(tmp_path / name)!r}: {message}"
    # The width has to match only if patch tokens are compared.
    width = {"distill.teacher": str(tmp_path / "width")}
    assert objective_of(width).teacher is not None
    with pytest.raises(tc.InputError, match="expected embed_dim=64, got 32"):
        objective_of({**width, "distill.tokens": 0.5})
