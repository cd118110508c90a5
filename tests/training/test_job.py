"""Every configuration of a published row is a run that can be made: its recipe, its teacher, its stages, its rates."""

from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import config, models
from tcvit_jax.reducers import REDUCERS
from tcvit_jax.training import experiment, optimizer
from tcvit_jax.training.job import objective_of, teacher_of
from tcvit_jax.training.warmdown import stages

CONFIGS = Path(__file__).parent.parent.parent / "configs"
STEPS = {1024: 1251.1, 2048: 625.6}
ROWS = [
    (size, method, recipe)
    for size in ("deit_ti", "deit_s", "deit_b", "lvvit_s")
    for method in ("gtp", "tcvit", "evit", "tome")
    for recipe in ("", "_finetune", "_selfdistill")
]


def parts(loaded):
    model = experiment.build_model(loaded)
    preprocessing = experiment.build_preprocessing(loaded, model)
    teacher, _, _ = teacher_of(loaded, model, preprocessing, {} if loaded.weights else None)
    return model, objective_of(loaded, model, preprocessing, teacher)


@pytest.mark.parametrize(("size", "method", "recipe"), ROWS)
def test_rows_are_their_recipes(size, method, recipe):
    loaded = config.load(CONFIGS / f"{size}_{method}{recipe}.py")
    model, objective = parts(loaded)
    assert type(model.reducer) is REDUCERS[method]
    assert model.reducer == type(model.reducer)()
    assert 0 < sum(model.removed) < 196
    total, per_epoch = round(loaded.epochs * STEPS[loaded.batch_size]), STEPS[loaded.batch_size]
    rate = optimizer.learning_rate(loaded.optimizer, total, per_epoch, loaded.batch_size)
    found = stages(loaded.warmdown, model, total, per_epoch)
    assert found[-1].removed == model.removed
    assert (len(found) > 1) == (method == "evit" and not recipe)
    if recipe:
        assert (loaded.epochs, float(rate(0)), float(rate(total))) == (30.0, pytest.approx(2e-5), pytest.approx(2e-6))
        assert (objective.teacher is None) == (recipe == "_finetune")
        assert loaded.weights
        assert model.drop_path_rate == 0
        if objective.teacher:
            assert objective.teacher.model == models.condense(model)
            assert (objective.teacher.weight, objective.teacher.tokens) == (0.5, 0.5)
    else:
        assert (loaded.epochs, objective.teacher, loaded.weights) == (300.0, None, "")
        assert float(rate(0)) == pytest.approx(1e-6)
        assert float(rate(round(10 * per_epoch))) == pytest.approx(1.6e-3 if "lvvit" in size else 1e-3, rel=0.01)
        assert objective.mix_token == (objective.token_labels > 0) == ("lvvit" in size)
        assert (objective.mixing.mixup, objective.mixing.cutmix) == ((0, 0) if "lvvit" in size else (0.8, 1.0))


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
