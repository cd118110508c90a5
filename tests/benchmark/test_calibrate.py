from dataclasses import fields

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.benchmark import calibrate
from tcvit_jax.benchmark.comparison import build
from tcvit_jax.data import open_source
from tcvit_jax.evaluation import EvaluationResult
from tcvit_jax.reducers import REDUCERS


def build_comparison(checkpoints, methods, macs_fraction=0.88, **changes):
    pretrained = from_checkpoint(checkpoints[0]).updated({f"data.{name}": value for name, value in changes.items()})
    return build([pretrained], methods, macs_fractions=(macs_fraction,), calibrate=50)


@pytest.mark.parametrize("kind", REDUCERS.values())
def test_search_space_values_are_valid_and_not_default(kind):
    defaults = {field.name: field.default for field in fields(kind)}
    for name, values in kind.SEARCH_SPACE.items():
        assert defaults[name] not in values
        for value in values:
            assert getattr(kind(**{name: value}), name) == value


def test_training_subset_is_evenly_spaced(checkpoints):
    subset = calibrate.training_subset(build_comparison(checkpoints, [tc.GTP()]), 50)
    source = open_source("digits", "train", "")
    assert len(subset) == 50 and subset.classes == source.classes
    for index in (0, 7, 49):
        np.testing.assert_array_equal(subset[index]["image"], source[index * len(source) // 50]["image"])


def test_calibration_on_the_evaluation_split_is_an_error(checkpoints):
    with pytest.raises(tc.InputError, match="data.train_split='val': must be different from data.eval_split"):
        build_comparison(checkpoints, [tc.GTP()], train_split="val")


def test_too_many_calibration_images_are_an_error(checkpoints):
    message = "--calibrate=5000: must be between 1 and 1438; split 'train' has 1,438 images"
    with pytest.raises(tc.InputError, match=message):
        calibrate.training_subset(build_comparison(checkpoints, [tc.GTP()]), 5000)


def test_fields_are_chosen_one_after_the_other(checkpoints, monkeypatch):
    """The accuracy is a known function of the fields, and only training images are evaluated."""
    comparison = build_comparison(checkpoints, [tc.TCViT(), tc.ToMe()])
    image_counts = []

    def evaluate(step, variables, batches, mesh):
        image_counts.append(sum(int(batch["mask"].sum()) for batch in batches))
        is_best = step.order == 3, step.balance == 0.75, step.match_order is None
        return EvaluationResult(top1=sum(is_best) / 3, top5=1.0, loss=1.0, examples=50, images_per_second=1.0)

    monkeypatch.setattr(calibrate, "make_eval_step", lambda model, *_: model.reducer)
    monkeypatch.setattr(calibrate, "evaluate", evaluate)
    subset = calibrate.training_subset(comparison, 50)
    calibrated = calibrate.calibrate(comparison, subset, comparison.budgets[0])
    assert calibrated == (tc.TCViT(order=3, balance=0.75), tc.ToMe())
    # There are 1 + 3 + 3 + 1 candidates, each evaluated once.
    assert image_counts == [50] * 8


def test_ties_in_accuracy_are_broken_by_loss(checkpoints, monkeypatch):
    comparison = build_comparison(checkpoints, [tc.DiffRate()])
    monkeypatch.setattr(calibrate, "make_eval_step", lambda model, *_: model.reducer)
    monkeypatch.setattr(
        calibrate, "evaluate", lambda step, *_: EvaluationResult(0.5, 1.0, abs(step.pruned - 0.25), 50, 1.0)
    )
    subset = calibrate.training_subset(comparison, 50)
    assert calibrate.calibrate(comparison, subset, comparison.budgets[0]) == (tc.DiffRate(pruned=0.25),)


def test_values_that_exceed_the_budget_are_skipped(checkpoints, monkeypatch):
    comparison, orders = build_comparison(checkpoints, [tc.TCViT()], macs_fraction=0.8), []

    def evaluate(step, *_):
        orders.append(step.order)
        return EvaluationResult(step.order / 9, 1.0, 1.0, 50, 1.0)

    monkeypatch.setattr(calibrate, "make_eval_step", lambda model, *_: model.reducer)
    monkeypatch.setattr(calibrate, "evaluate", evaluate)
    subset = calibrate.training_subset(comparison, 50)
    assert calibrate.calibrate(comparison, subset, comparison.budgets[0])[0].order == max(orders) < 4
