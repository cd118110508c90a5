"""The dense model at a lower resolution, and other rows that a method must exceed."""

from dataclasses import replace

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.benchmark.comparison import build
from tcvit_jax.benchmark.resolution import image_size, scale_preprocessing
from tcvit_jax.errors import invalid
from tcvit_jax.models.image_preprocessing import Preprocessing
from tests.benchmark.conftest import save


@pytest.mark.parametrize("img_size", [(12, 12), (12, 20), (20, 12)])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_image_size_is_the_largest_that_meets_the_budget(img_size, fraction):
    def create(size):
        return tc.create_model("vit", img_size=size, patch_size=2, embed_dim=16, depth=2, num_heads=2, num_classes=3)

    model = create(img_size)
    limit, ratio = fraction * model.cost().total, img_size[1] / img_size[0]
    size = image_size(model, limit / 1e9)
    assert create(size).cost().total <= limit and abs(size[1] - size[0] * ratio) <= 2
    sides = range(2, 21, 2)
    others = [(h, w) for h in sides for w in sides if abs(w - h * ratio) <= 2 and h <= img_size[0] and w <= img_size[1]]
    assert len(others) > 5
    for height, width in others:
        assert height * width <= size[0] * size[1] or create((height, width)).cost().total > limit


def test_budget_below_one_patch_is_an_error():
    model = tc.create_model("vit", img_size=8, patch_size=2, embed_dim=16, depth=2, num_heads=2)
    with pytest.raises(tc.InputError, match="dense at a lower resolution: no image size has at most 1e-06 GMACs"):
        image_size(model, 1e-6)


def test_preprocessing_shows_the_same_part_of_an_image():
    preprocessing = Preprocessing(crop_pct=0.9)
    assert scale_preprocessing(preprocessing, (224, 224), (160, 160)) == preprocessing
    assert scale_preprocessing(replace(preprocessing, resize=256), (224, 224), (112, 126)).resize == 128


@pytest.fixture(scope="module")
def pretrained(checkpoints, tmp_path_factory):
    """Return models with two seeds, the second of which was trained with a reducer."""
    trained = save(
        tmp_path_factory.mktemp("trained") / "gtp", 1, ["--config.reducer.name=gtp", "--config.schedule=15"]
    )  # fmt: skip
    return [from_checkpoint(checkpoints[0]), from_checkpoint(trained)]


def test_bounds_meet_the_budget_with_resampled_positions(pretrained):
    comparison = build(pretrained, [tc.GTP()], macs_fractions=(0.7,))
    budget = comparison.budgets[0]
    entries, notes = comparison.bounds(budget)
    assert notes == ()
    assert [entry.name for entry in entries] == ["dense at 10x10 px", "Random()", "Uniform()"]
    assert all(0.8 * budget < entry.model.cost().total / 1e9 <= budget for entry in entries)
    resized = entries[0].subject
    assert (resized.model.reducer, resized.model.img_size, resized.grid) == (None, (10, 10), comparison.model.grid)
    assert next(resized.data.batches())["image"].shape[1:] == (10, 10, 1)
    expected = tc.load(pretrained[0].name, img_size=(10, 10))[1]["params"]["pos_embed"]
    np.testing.assert_array_equal(resized.variables[0]["params"]["pos_embed"], expected)
    assert resized.variables[1]["params"]["pos_embed"].shape == expected.shape


def test_listed_baselines_are_not_repeated_and_flag_leaves_bounds_out(pretrained):
    comparison = build(pretrained[:1], [tc.GTP(), tc.Random(seed=1)], macs_fractions=(0.7,))
    entries, _ = comparison.bounds(comparison.budgets[0])
    assert [entry.reducer for entry in entries] == [None, tc.Uniform()]
    assert replace(comparison, has_bounds=False).bounds(comparison.budgets[0]) == ((), ())


def test_models_of_one_size_get_a_note(pretrained):
    def refuse(size):
        raise invalid("img_size", "this model has one size")

    fixed = replace(pretrained[0], load_dense=refuse)
    comparison = build([fixed], [tc.GTP()], macs_fractions=(0.7,))
    entries, notes = comparison.bounds(comparison.budgets[0])
    assert [entry.name for entry in entries] == ["Random()", "Uniform()"]
    assert notes == ("no row for dense at a lower resolution: img_size: this model has one size",)
