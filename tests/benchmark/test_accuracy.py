import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.benchmark.accuracy import Hits, hits, paired_difference
from tcvit_jax.evaluation import evaluate, make_eval_step
from tcvit_jax.sharding import data_mesh


@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 99))
def test_hits_come_back_from_json(weights, images, seed):
    rng = np.random.default_rng(seed)
    found = Hits(*(rng.random((2, weights, images)) < 0.5))
    again = Hits.from_json(json.loads(json.dumps(found.to_json())))
    np.testing.assert_array_equal(again.top1, found.top1)
    np.testing.assert_array_equal(again.top5, found.top5)


def test_hits_are_those_that_an_evaluation_counts(checkpoints):
    weights = [from_checkpoint(directory) for directory in checkpoints]
    model, preprocessing, data = weights[0].model, weights[0].preprocessing, weights[0].eval_data()
    found = hits(model, preprocessing, [each.variables for each in weights], data.batches(), data_mesh())
    assert found.top1.shape == (2, len(data.source))
    step = make_eval_step(model, preprocessing, data_mesh())
    for row, each in enumerate(weights):
        result = evaluate(step, each.variables, data.batches(), data_mesh())
        assert found.top1[row].mean() == result.top1
        assert found.top5[row].mean() == result.top5
    # Two seeds are two models.
    assert (found.top1[0] != found.top1[1]).any()


def test_the_interval_is_that_of_a_paired_test_by_hand():
    ours, theirs = np.array([[1, 1, 0, 1, 0, 1, 1, 0]], bool), np.array([[1, 0, 0, 1, 1, 0, 0, 0]], bool)
    # Better on three images, worse on one, of eight.
    found = paired_difference(ours, theirs)
    assert found.mean == 2 / 8
    margin = 1.959964 * math.sqrt((4 / 8 - (2 / 8) ** 2) * 8 / 7 / 8)
    np.testing.assert_allclose([found.low, found.high], [0.25 - margin, 0.25 + margin])


def test_a_method_does_not_differ_from_itself_and_pairs_are_tighter_than_two_samples():
    rng = np.random.default_rng(0)
    one = rng.random((1, 5000)) < 0.8
    other = one ^ (rng.random((1, 5000)) < 0.01)
    same = paired_difference(one, one)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    found = paired_difference(one, other)
    unpaired = 1.96 * math.sqrt(one.var() / 5000 + other.var() / 5000)
    assert found.high - found.low < unpaired


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_holds_the_truth_about_as_often_as_it_says(seed):
    """Of 200 samples whose true difference is 0.05, 95 % should hold it: fewer than 88 % has odds below 1 in 10,000."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(200):
        theirs = rng.random((1, 400)) < 0.5
        u = rng.random((1, 400))
        # Of those that are wrong a fifth become right, of those that are right a tenth wrong.
        ours = np.where(theirs, u >= 0.1, u < 0.2)
        found = paired_difference(ours, theirs)
        held += found.low <= 0.05 <= found.high
    assert held / 200 > 0.88


def test_of_several_weights_an_image_counts_once():
    ours = np.array([[1, 0, 1, 0], [1, 0, 1, 0]], bool)
    theirs = np.zeros((2, 4), bool)
    assert paired_difference(ours, theirs) == paired_difference(ours[:1], theirs[:1])
