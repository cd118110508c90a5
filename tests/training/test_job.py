"""What a configuration minimizes, and the teachers that fit it."""

from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import config, models, sharding
from tcvit_jax.training import recipe

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def objective_of(changes):
    loaded = config.load(CONFIGS / "digits_gtp.py", changes=changes)
    return recipe.build(loaded, sharding.data_mesh()).objective


def test_a_dense_teacher_is_the_model_without_reduction():
    loaded = config.load(f"{CONFIGS / 'deit_ti_gtp.py'}:selfdistill")
    found = recipe.build(loaded, sharding.data_mesh())
    assert found.objective.teacher.model == models.condense(found.model)
    # Its weights are those that the run starts from.
    assert found.teacher_variables is None


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher": "dense"}, "distill.teacher='dense' requires weights: set --config.weights=PATH"),
    ({"teacher": "/nonexistent/run"}, "distill.teacher='/nonexistent/run': /nonexistent/run: checkpoint not found"),
])  # fmt: skip
def test_impossible_teachers(changes, message):
    with pytest.raises(tc.InputError) as caught:
        objective_of({f"distill.{name}": value for name, value in changes.items()})
    assert str(caught.value) == message


def test_a_teacher_of_other_classes_is_refused(tmp_path):
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
    for name, other in (("classes", {"num_classes": 9}), ("size", {"img_size": 14}), ("width", {})):
        teacher = tc.create_model("deit_tiny_patch16_224", **{**sizes, **other})
        variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.variable_shapes(teacher))
        meta = {"model": models.to_config(teacher), "preprocessing": {"mean": [0.5], "std": [0.5]}, "classes": None}
        checkpoint.save(tmp_path / name, variables, meta)
    for name, message in (
        ("classes", "has num_classes=9, and the model 10: choose a teacher with the same"),
        ("size", r"has img_size=(14, 14), and the model (12, 12): choose a teacher with the same"),
    ):
        with pytest.raises(tc.InputError) as caught:
            objective_of({"distill.teacher": str(tmp_path / name)})
        assert str(caught.value) == f"distill.teacher={str(tmp_path / name)!r} {message}"
    # Another width matters where tokens are compared, and nowhere else.
    width = {"distill.teacher": str(tmp_path / "width")}
    assert objective_of(width).teacher is not None
    with pytest.raises(tc.InputError, match="has embed_dim=32, and the model 64"):
        objective_of({**width, "distill.tokens": 0.5})
