"""Retrieval of pairs against a float64 reference."""

from dataclasses import replace

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.data import open_source
from tcvit_jax.tasks.features import FeatureOutputs
from tcvit_jax.tasks.retrieval import Retrieval, partner_ranks
from tests.tasks.conftest import make_features, unit


def make_pairs(pairs=12, width=5, noise=0.8):
    rng = np.random.default_rng(0)
    first = rng.normal(size=(pairs, width))
    values = unit(np.concatenate([first, first + noise * rng.normal(size=(pairs, width))]))[None]
    return replace(make_features(2 * pairs), values=values)


def test_recall_equals_a_reference():
    images = make_pairs()
    outputs = FeatureOutputs(images)
    scores = Retrieval().scores(outputs, outputs)
    x = images.values[0].astype(np.float64)
    cosines = x[:12] @ x[12:].T
    for start, matrix in ((0, cosines), (12, cosines.T)):
        rank = (matrix > np.diag(matrix)[:, None]).sum(1)
        np.testing.assert_array_equal(scores.metrics["recall1"][0, start : start + 12], rank < 1)
        np.testing.assert_array_equal(scores.metrics["recall5"][0, start : start + 12], rank < 5)
    assert 0 < scores.primary.mean() < scores.metrics["recall5"].mean()


def test_cosine_compares_each_image_with_the_dense_model():
    images, dense = make_pairs(), make_pairs(noise=0.1)
    scores = Retrieval().scores(FeatureOutputs(images), FeatureOutputs(dense))
    expected = (images.values.astype(np.float64) * dense.values).sum(-1)
    np.testing.assert_allclose(scores.metrics["cosine"], expected, atol=1e-6)
    np.testing.assert_allclose(expected[:, :12], 1, atol=1e-6)


def test_order_of_the_pairs_changes_nothing():
    values = make_pairs().values[0]
    order = np.random.default_rng(1).permutation(12)
    permuted = partner_ranks(values[np.concatenate([order, 12 + order])])
    np.testing.assert_array_equal(permuted, partner_ranks(values)[np.concatenate([order, 12 + order])])


def test_first_of_equal_candidates_wins():
    np.testing.assert_array_equal(partner_ranks(unit(np.ones((6, 3)))), [0, 1, 2, 0, 1, 2])


def test_other_sources_are_errors():
    with pytest.raises(tc.InputError, match="--task retrieval requires pairs of images: set --config.data.name=pairs"):
        Retrieval().select(open_source("digits", "val"))
