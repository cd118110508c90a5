"""Scores by example, their form in JSON, and paired intervals."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcvit_jax import schema
from tcvit_jax.errors import InputError
from tcvit_jax.tasks.scores import Scores, ScoresJson, find_scores_problem, paired_difference


def make_scores(weights, examples, seed=0):
    rng = np.random.default_rng(seed)
    metrics = {"top1": rng.random((weights, examples)) < 0.5, "cosine": rng.normal(size=(weights, examples))}
    return Scores({**metrics, "cosine": metrics["cosine"].astype(np.float32)}, nonfinite=seed)


@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 99))
def test_scores_survive_a_json_round_trip(weights, examples, seed):
    expected = make_scores(weights, examples, seed)
    values = json.loads(json.dumps(expected.to_json()))
    schema.check(values, "values", ScoresJson)
    assert find_scores_problem(values, ("top1", "cosine"), weights, examples) is None
    actual = Scores.from_json(values)
    assert actual.nonfinite == seed and list(actual.metrics) == ["top1", "cosine"]
    for name, rows in expected.metrics.items():
        assert actual.metrics[name].dtype == rows.dtype
        np.testing.assert_array_equal(actual.metrics[name], rows)


@pytest.mark.parametrize(
    ("metrics", "weights", "examples"), [(("top1",), 2, 9), (("cosine", "top1"), 2, 9), (("top1", "cosine"), 1, 9),
                                         (("top1", "cosine"), 2, 8)]
)  # fmt: skip
def test_scores_of_other_metrics_or_sizes_are_problems(metrics, weights, examples):
    values = make_scores(2, 9).to_json()
    assert find_scores_problem(values, metrics, weights, examples).startswith(f"expected {metrics[0]}")


def test_damaged_scores_are_problems():
    values = make_scores(1, 2).to_json()
    values["metrics"]["cosine"]["rows"] = [np.array([1, np.nan], "<f4").tobytes().hex()]
    assert find_scores_problem(values, ("top1", "cosine"), 1, 2) == "expected finite values"
    values["metrics"]["cosine"]["dtype"] = "float64"
    with pytest.raises(InputError, match="values: metrics.*dtype: expected `str` matching"):
        schema.check(values, "values", ScoresJson)


def test_scores_are_described_by_means_and_counts():
    scores = Scores({"top1": np.array([[True, False, True, True]]), "cosine": np.array([[1, 1, 0.5, 0.5]], np.float32)})
    assert str(scores) == "top1 0.750000 (3/4)  cosine 0.750000"


@given(st.integers(2, 30), st.integers(0, 99))
def test_interval_of_floats_equals_a_reference(examples, seed):
    rng = np.random.default_rng(seed)
    method, reference = rng.normal(size=(2, 3, examples)).astype(np.float32)
    differences = (method.astype(np.float64) - reference).mean(0)
    margin = 1.959964 * math.sqrt(sum((differences - differences.mean()) ** 2) / (examples - 1) / examples)
    actual = paired_difference(method, reference)
    np.testing.assert_allclose(
        [actual.low, actual.mean, actual.high], differences.mean() + margin * np.array([-1, 0, 1]), atol=1e-12
    )


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
