import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.benchmark.accuracy import Hits, hits, paired_difference
from tcvit_jax.evaluation import evaluate, make_eval_step
from tcvit_jax.sharding import data_mesh


@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 99))
def test_hits_survive_a_json_round_trip(weights, images, seed):
    rng = np.random.default_rng(seed)
    expected = Hits(*(rng.random((2, weights, images)) < 0.5))
    actual = Hits.from_json(json.loads(json.dumps(expected.to_json())))
    np.testing.assert_array_equal(actual.top1, expected.top1)
    np.testing.assert_array_equal(actual.top5, expected.top5)


def test_images_with_nonfinite_logits_are_counted(checkpoints):
    weights = from_checkpoint(checkpoints[0])
    data, mesh = weights.eval_data(), data_mesh()
    damaged = jax.tree.map(lambda leaf: leaf * np.nan, weights.variables)
    actual = hits(weights.model, weights.preprocessing, [weights.variables, damaged], data.batches(), mesh)
    assert actual.nonfinite == len(data.source)
    assert not actual.top1[1].any()
    assert Hits.from_json(json.loads(json.dumps(actual.to_json()))).nonfinite == actual.nonfinite
    result = evaluate(make_eval_step(weights.model, weights.preprocessing, mesh), damaged, data.batches(), mesh)
    assert (result.nonfinite, result.top1) == (len(data.source), 0)


def test_hits_agree_with_evaluate(checkpoints):
    weights = [from_checkpoint(directory) for directory in checkpoints]
    model, preprocessing, data = weights[0].model, weights[0].preprocessing, weights[0].eval_data()
    actual = hits(model, preprocessing, [each.variables for each in weights], data.batches(), data_mesh())
    assert actual.top1.shape == (2, len(data.source))
    step = make_eval_step(model, preprocessing, data_mesh())
    for row, each in enumerate(weights):
        result = evaluate(step, each.variables, data.batches(), data_mesh())
        assert actual.top1[row].mean() == result.top1
        assert actual.top5[row].mean() == result.top5
    # The seeds differ.
    assert (actual.top1[0] != actual.top1[1]).any()


def test_interval_of_paired_difference_equals_a_hand_computation():
    method, reference = np.array([[1, 1, 0, 1, 0, 1, 1, 0]], bool), np.array([[1, 0, 0, 1, 1, 0, 0, 0]], bool)
    # Of eight images, three are better and one is worse.
    difference = paired_difference(method, reference)
    assert difference.mean == 2 / 8
    margin = 1.959964 * math.sqrt((4 / 8 - (2 / 8) ** 2) * 8 / 7 / 8)
    np.testing.assert_allclose([difference.low, difference.high], [0.25 - margin, 0.25 + margin])


def test_interval_is_zero_for_equal_hits_and_tighter_than_unpaired():
    rng = np.random.default_rng(0)
    method = rng.random((1, 5000)) < 0.8
    reference = method ^ (rng.random((1, 5000)) < 0.01)
    difference = paired_difference(method, method)
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    difference = paired_difference(method, reference)
    unpaired_margin = 1.96 * math.sqrt(method.var() / 5000 + reference.var() / 5000)
    assert difference.high - difference.low < unpaired_margin


@pytest.mark.parametrize("seed", range(10))
def test_interval_has_the_nominal_coverage(seed):
    """95 % of 200 intervals should cover the true difference of 0.05; below 88 % has a probability under 1e-4."""
    rng = np.random.default_rng(seed)
    covered = 0
    for _ in range(200):
        reference = rng.random((1, 400)) < 0.5
        u = rng.random((1, 400))
        # The method corrects a fifth of the errors of the reference and loses a tenth of its hits.
        method = np.where(reference, u >= 0.1, u < 0.2)
        difference = paired_difference(method, reference)
        covered += difference.low <= 0.05 <= difference.high
    assert covered / 200 > 0.88


def test_images_count_once_for_several_weights():
    method = np.array([[1, 0, 1, 0], [1, 0, 1, 0]], bool)
    reference = np.zeros((2, 4), bool)
    assert paired_difference(method, reference) == paired_difference(method[:1], reference[:1])
