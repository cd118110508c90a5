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


def comparison(checkpoints, methods, share=0.88, **changes):
    found = from_checkpoint(checkpoints[0]).updated({f"data.{name}": value for name, value in changes.items()})
    return build([found], methods, shares=(share,), calibrate=50)


@pytest.mark.parametrize("kind", REDUCERS.values())
def test_what_is_tried_are_values_of_fields_that_are_no_defaults(kind):
    defaults = {field.name: field.default for field in fields(kind)}
    for name, values in kind.SEARCH_SPACE.items():
        assert defaults[name] not in values
        for value in values:
            assert getattr(kind(**{name: value}), name) == value


def test_a_part_is_spread_over_the_training_split(checkpoints):
    part = calibrate.training_subset(comparison(checkpoints, [tc.GTP()]), 50)
    whole = open_source("digits", "train", "")
    assert len(part) == 50 and part.classes == whole.classes
    for index in (0, 7, 49):
        np.testing.assert_array_equal(part[index]["image"], whole[index * len(whole) // 50]["image"])


def test_the_split_that_is_evaluated_is_refused(checkpoints):
    found = comparison(checkpoints, [tc.GTP()], train_split="val")
    with pytest.raises(tc.InputError, match="data.train_split='val' is the split that is evaluated"):
        calibrate.training_subset(found, 50)


def test_more_images_than_there_are_are_refused(checkpoints):
    with pytest.raises(tc.InputError, match="calibrate=5000 images of 'train', which has 1438"):
        calibrate.training_subset(comparison(checkpoints, [tc.GTP()]), 5000)


def test_the_best_value_of_each_field_is_taken_one_after_the_other(checkpoints, monkeypatch):
    """With a quality that is known, and only training images looked at."""
    chosen = comparison(checkpoints, [tc.TCViT(), tc.ToMe()])
    seen = []

    def evaluate(step, variables, batches, mesh):
        seen.append(sum(int(batch["mask"].sum()) for batch in batches))
        good = step.order == 3, step.balance == 0.75, step.match_order is None
        return EvaluationResult(top1=sum(good) / 3, top5=1.0, loss=1.0, examples=50, images_per_second=1.0)

    monkeypatch.setattr(calibrate, "make_eval_step", lambda model, *_: model.reducer)
    monkeypatch.setattr(calibrate, "evaluate", evaluate)
    part = calibrate.training_subset(chosen, 50)
    found = calibrate.calibrate(chosen, part, chosen.budgets[0])
    assert found == (tc.TCViT(order=3, balance=0.75), tc.ToMe())
    # 1 + 3 + 3 + 1 candidates, none of them twice.
    assert seen == [50] * 8


def test_of_equally_accurate_values_the_one_with_the_lower_loss_is_taken(checkpoints, monkeypatch):
    chosen = comparison(checkpoints, [tc.DiffRate()])
    monkeypatch.setattr(calibrate, "make_eval_step", lambda model, *_: model.reducer)
    monkeypatch.setattr(
        calibrate, "evaluate", lambda step, *_: EvaluationResult(0.5, 1.0, abs(step.pruned - 0.25), 50, 1.0)
    )
    part = calibrate.training_subset(chosen, 50)
    assert calibrate.calibrate(chosen, part, chosen.budgets[0]) == (tc.DiffRate(pruned=0.25),)


def test_a_value_that_leaves_no_room_in_the_budget_is_passed_over(checkpoints, monkeypatch):
    chosen, seen = comparison(checkpoints, [tc.TCViT()], share=0.8), []

    def evaluate(step, *_):
        seen.append(step.order)
        return EvaluationResult(step.order / 9, 1.0, 1.0, 50, 1.0)

    monkeypatch.setattr(calibrate, "make_eval_step", lambda model, *_: model.reducer)
    monkeypatch.setattr(calibrate, "evaluate", evaluate)
    part = calibrate.training_subset(chosen, 50)
    assert calibrate.calibrate(chosen, part, chosen.budgets[0])[0].order == max(seen) < 4
