"""Every configuration of a published row is a run that can be made: its recipe, its teacher, its stages, its rates."""

from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import config, models
from tcvit_jax.training import experiment
from tcvit_jax.training.job import objective_of, teacher_of

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def parts(loaded):
    model = experiment.build_model(loaded)
    preprocessing = experiment.build_preprocessing(loaded, model)
    teacher, _, _ = teacher_of(loaded, model, preprocessing, {} if loaded.weights else None)
    return model, objective_of(loaded, model, preprocessing, teacher)


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher": "dense"}, "distill.teacher='dense' needs the weights that it is of: use --config.weights=PATH"),
    ({"teacher": "/nonexistent/run"}, "distill.teacher='/nonexistent/run': no checkpoint in '/nonexistent/run'"),
])  # fmt: skip
def test_impossible_teachers(changes, message):
    loaded = config.load(CONFIGS / "digits_gtp.py")
    loaded.distill.update({"teacher": "dense", **changes})
    with pytest.raises(tc.InputError) as caught:
        parts(loaded)
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
    loaded = config.load(CONFIGS / "digits_gtp.py")
    for name, other in (("classes", {"num_classes": 9}), ("size", {"img_size": 14}), ("width", {})):
        teacher = tc.create_model("deit_tiny_patch16_224", **{**sizes, **other})
        variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), models.variable_shapes(teacher))
        meta = {"model": models.to_config(teacher), "preprocessing": {"mean": [0.5], "std": [0.5]}, "classes": None}
        checkpoint.save(tmp_path / name, variables, meta)
    for name, message in (
        ("classes", "has num_classes=9, and the model 10: choose a teacher with the same"),
        ("size", r"has img_size=(14, 14), and the model (12, 12): choose a teacher with the same"),
    ):
        loaded.distill.teacher = str(tmp_path / name)
        with pytest.raises(tc.InputError) as caught:
            parts(loaded)
        assert str(caught.value) == f"distill.teacher={str(tmp_path / name)!r} {message}"
    # Another width matters where tokens are compared, and nowhere else.
    loaded.distill.teacher = str(tmp_path / "width")
    assert parts(loaded)[1].teacher is not None
    loaded.distill.tokens = 0.5
    with pytest.raises(tc.InputError, match="has embed_dim=32, and the model 64"):
        parts(loaded)
