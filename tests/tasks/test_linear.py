"""Linear probes against float64 references."""

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.tasks import linear
from tcvit_jax.tasks.linear import Linear, choose_strength, fit_logistic, fit_ridge, probe_ranks
from tests.tasks.conftest import make_features, make_outputs


@pytest.fixture
def train():
    features = make_features(40)
    return features.values[0], features.labels


@pytest.mark.parametrize("strength", [1e-6, 0.1, 10.0])
def test_ridge_solves_the_normal_equations(train, strength):
    x, labels = train[0].astype(np.float64), train[1]
    weights, biases = fit_ridge(*train, 4)(strength)
    # The intercept is a column of ones that is not regularized.
    design = np.column_stack([x, np.ones(40)])
    penalty = strength * 40 * np.diag([1.0] * x.shape[1] + [0])
    expected = np.linalg.solve(design.T @ design + penalty, design.T @ np.eye(4)[labels])
    np.testing.assert_allclose(np.vstack([weights, biases]), expected, atol=1e-8)


def test_ridge_in_blocks_is_the_same(train, monkeypatch):
    expected = fit_ridge(*train, 4)(0.1)
    monkeypatch.setattr(linear, "_BLOCK", 7)
    for actual, each in zip(fit_ridge(*train, 4)(0.1), expected, strict=True):
        np.testing.assert_allclose(actual, each, atol=1e-12)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_logistic_regression_is_stationary(train, strength):
    """The gradient in float64 is zero, and the loss is convex."""
    x, labels = train[0].astype(np.float64), train[1]
    weights, biases = fit_logistic(*train, 4)(strength)
    logits = x @ weights + biases
    probs = np.exp(logits - logits.max(1, keepdims=True))
    residual = probs / probs.sum(1, keepdims=True) - np.eye(4)[labels]
    np.testing.assert_allclose(x.T @ residual / 40 + strength * weights, 0, atol=1e-4)
    np.testing.assert_allclose(residual.mean(0), 0, atol=1e-4)


def test_strength_is_chosen_on_images_that_do_not_train():
    seen, labels = [], np.arange(40, dtype=np.int32) % 4
    train = np.eye(6, dtype=np.float32)[labels], labels

    def fit(features, labels, classes):
        seen.append(features)
        return lambda strength: (np.eye(6, 4) * (strength == linear.STRENGTHS[3]), np.zeros(4))

    # Only one strength has weights; with others, every image is of the first class.
    assert choose_strength(fit, *train, 4) == linear.STRENGTHS[3]
    assert len(seen) == 1 and len(seen[0]) == 32
    assert choose_strength(lambda *_: lambda strength: (np.zeros((6, 4)), np.zeros(4)), *train, 4) == max(
        linear.STRENGTHS
    )


@pytest.mark.parametrize("probe", linear.PROBES)
def test_separable_classes_are_learned(probe):
    rng = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 3
    features = (np.eye(5)[labels] + 0.05 * rng.normal(size=(60, 5))).astype(np.float32)
    # A constant feature has no standard deviation.
    features[:, 4] = 0.3
    assert not probe_ranks(features[:20], labels[:20], features[20:], labels[20:], 3, probe).any()


def test_order_of_features_and_scores_of_the_task():
    outputs = make_outputs(weights=2)
    scores = Linear().scores(outputs, outputs)
    assert list(scores.metrics) == list(Linear.METRICS) and scores.primary.shape == (2, 13)
    images, train = outputs.images, outputs.train_images
    order = np.random.default_rng(0).permutation(6)
    ranks = probe_ranks(images.values[0][:, order], images.labels, train.values[0][:, order], train.labels, 4, "ridge")
    np.testing.assert_array_equal(ranks < 1, scores.primary[0])


def test_unknown_probe_and_too_few_images_are_errors():
    with pytest.raises(tc.InputError, match="unknown --probe 'rigde': did you mean 'ridge'?"):
        Linear(probe="rigde")
    outputs = make_outputs(train_images=9)
    with pytest.raises(tc.InputError, match="--task linear: expected at least 10 training images, got 9"):
        Linear().scores(outputs, outputs)
