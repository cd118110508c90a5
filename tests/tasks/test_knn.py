"""Weighted nearest neighbors against a float64 reference."""

from dataclasses import replace

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.tasks import neighbors
from tcvit_jax.tasks.features import FeatureOutputs
from tcvit_jax.tasks.knn import Knn, knn_ranks
from tests.tasks.conftest import make_features, make_outputs, unit


def reference_votes(queries, bank, bank_labels, classes, k, temperature, leave_one_out=False):
    """Return the votes of all classes for each query."""
    votes = np.zeros((len(queries), classes))
    for row, query in enumerate(queries.astype(np.float64)):
        cosines = bank.astype(np.float64) @ query
        if leave_one_out:
            cosines[row] = -np.inf
        for index in sorted(range(len(bank)), key=lambda each: (-cosines[each], each))[:k]:
            votes[row, bank_labels[index]] += np.exp(cosines[index] / temperature)
    return votes


def reference_hits(votes, labels, top):
    """Return whether the label has a vote and is among the first classes by votes."""
    order = np.argsort(-votes, axis=1, kind="stable")[:, :top]
    return (order == labels[:, None]).any(1) & (votes[np.arange(len(labels)), labels] > 0)


@pytest.mark.parametrize(("k", "temperature", "classes"), [(1, 0.07, 4), (5, 0.07, 9), (40, 1.0, 9)])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_hits_equal_a_reference(k, temperature, classes, leave_one_out):
    outputs = make_outputs(41 if leave_one_out else 13, classes=classes, weights=2)
    images, bank = outputs.images, outputs.images if leave_one_out else outputs.train_images
    scores = Knn(k=k, temperature=temperature, leave_one_out=leave_one_out).scores(outputs, outputs)
    assert list(scores.metrics) == list(Knn.METRICS)
    for row, (queries, values) in enumerate(zip(images.values, bank.values, strict=True)):
        votes = reference_votes(queries, values, bank.labels, classes, k, temperature, leave_one_out)
        for top, name in ((1, "top1"), (5, "top5")):
            np.testing.assert_array_equal(scores.metrics[name][row], reference_hits(votes, images.labels, top))
    np.testing.assert_allclose(scores.metrics["cosine"], 1, atol=1e-6)


def test_order_of_the_bank_changes_nothing():
    outputs = make_outputs()
    order = np.random.default_rng(0).permutation(40)
    bank = outputs.train_images
    permuted = replace(bank, values=bank.values[:, order], labels=bank.labels[order])
    expected = Knn(k=7).scores(outputs, outputs)
    actual = Knn(k=7).scores(FeatureOutputs(outputs.images, permuted), outputs)
    np.testing.assert_array_equal(actual.primary, expected.primary)


def test_blocks_of_queries_change_nothing(monkeypatch):
    queries, bank = make_features(13), make_features(40)
    arguments = queries.values[0], queries.labels, bank.values[0], bank.labels, 4, 3, 0.07
    expected = knn_ranks(*arguments)
    monkeypatch.setattr(neighbors, "_MAX_QUERIES", 5)
    np.testing.assert_array_equal(knn_ranks(*arguments), expected)
    images = make_features(41)
    arguments = images.values[0], images.labels, images.values[0], images.labels, 4, 3, 0.07, True
    actual = knn_ranks(*arguments)
    monkeypatch.setattr(neighbors, "_MAX_QUERIES", 1024)
    np.testing.assert_array_equal(actual, knn_ranks(*arguments))


def test_an_image_does_not_vote_for_itself():
    # Each image is alone in its class, so that only its own vote could be correct.
    images = replace(make_features(9), labels=np.arange(9, dtype=np.int32), classes=9)
    outputs = FeatureOutputs(images, images)
    assert Knn(k=1).scores(outputs, outputs).primary.all()
    assert not Knn(k=8, leave_one_out=True).scores(outputs, outputs).metrics["top5"].any()


def test_first_of_equal_neighbors_and_first_of_equal_classes_win():
    query, bank = unit(np.ones((1, 3))), unit(np.ones((4, 3)))
    labels = np.array([2, 1, 1, 0], np.int32)
    ranks = [knn_ranks(query, np.array([label], np.int32), bank, labels, 3, 1, 0.07)[0] for label in range(3)]
    assert ranks[2] == 0 and min(ranks[:2]) > 5
    ranks = [knn_ranks(query, np.array([label], np.int32), bank, labels, 3, 4, 0.07)[0] for label in range(3)]
    assert ranks == [1, 0, 2]


def test_images_with_nonfinite_features_are_never_correct():
    outputs = make_outputs(9)
    is_finite = np.ones((1, 9), bool)
    is_finite[0, 4] = False
    images = replace(outputs.images, is_finite=is_finite, labels=np.zeros(9, np.int32), classes=1)
    bank = replace(outputs.train_images, labels=np.zeros(40, np.int32), classes=1)
    scores = Knn().scores(FeatureOutputs(images, bank), outputs)
    assert scores.nonfinite == 1
    np.testing.assert_array_equal(scores.primary, is_finite)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "--k=0: must be >= 1"),
        ({"temperature": 0.0}, r"--temperature=0.0: must be in \[0.0125, 1e\+06\]"),
        ({"temperature": float("nan")}, "--temperature=nan: must be in"),
        ({"feature": "pool"}, "unknown --feature 'pool': did you mean 'pooled'?"),
    ],
)
def test_invalid_fields_are_errors(arguments, message):
    with pytest.raises(tc.InputError, match=message):
        Knn(**arguments)


def test_more_neighbors_than_images_are_an_error():
    outputs = make_outputs()
    with pytest.raises(tc.InputError, match="--k=41: must be <= 40, the number of possible neighbors"):
        Knn(k=41).scores(outputs, outputs)
    with pytest.raises(tc.InputError, match="--k=13: must be <= 12"):
        Knn(k=13, leave_one_out=True).scores(outputs, outputs)
