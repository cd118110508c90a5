"""Tests of what a search maximizes."""

import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.search.objective import Agreement, choose
from tcvit_jax.tasks.classify import Classify
from tcvit_jax.tasks.dense import Dense
from tcvit_jax.tasks.knn import Knn
from tcvit_jax.tasks.linear import Linear
from tcvit_jax.tasks.retrieval import Retrieval
from tests.tasks.conftest import make_outputs

DENSE = {"decoder": "m:n", "decoder_weights": "w"}


@pytest.mark.parametrize(
    ("task", "metric", "expected"),
    [
        (Classify(), "", (Agreement(), "cosine")),
        (Classify(), "top1", (Classify(), "top1")),
        (Knn(feature="avg"), "", (Agreement("avg"), "cosine")),
        (Knn(k=3), "top1", (Knn(k=3, leave_one_out=True), "top1")),
        (Linear(), "cosine", (Agreement(), "cosine")),
        (Retrieval(), "", (Agreement(), "cosine")),
        (Dense(**DENSE), "", (Dense(**DENSE), "iou")),
    ],
)
def test_objective_of_a_task(task, metric, expected):
    objective = choose(task, metric)
    assert (objective.task, objective.metric) == expected


@pytest.mark.parametrize(
    ("task", "metric", "message"),
    [
        (Linear(), "top1", "--objective top1 cannot be combined with --task linear: set --objective cosine"),
        (
            Retrieval(),
            "recall1",
            "--objective recall1 cannot be combined with --task retrieval: set --objective cosine",
        ),
        (Dense(**DENSE), "error", "--objective error cannot be combined with --task dense: set --objective iou"),
        (Classify(), "top2", "unknown objective 'top2': did you mean 'top5'?"),
        (Dense(**DENSE, label_maps="d"), "", "--label-maps cannot be combined with tcvit_jax.search: it compares with"),
    ],
)
def test_metrics_that_a_task_does_not_have_are_errors(task, metric, message):
    with pytest.raises(tc.InputError) as error:
        choose(task, metric)
    assert str(error.value).startswith(message)


def test_neighbors_need_more_images_than_neighbors():
    choose(Knn(k=7), "top1").check(8)
    choose(Knn(k=20), "").check(2)
    with pytest.raises(tc.InputError, match="--min-images=8: must be > 8, the number of neighbors --k"):
        choose(Knn(k=8), "top1").check(8)


def test_scores_have_the_metric_alone():
    outputs, dense = make_outputs(seed=1), make_outputs(seed=2)
    cosine = choose(Classify(), "").scores(outputs, dense)
    expected = (outputs.images.values.astype(np.float64) * dense.images.values).sum(-1)
    assert list(cosine.metrics) == ["cosine"]
    np.testing.assert_allclose(cosine.primary, expected, atol=1e-6)
    top1 = choose(Knn(k=3), "top1").scores(outputs, dense)
    assert list(top1.metrics) == ["top1"] and top1.primary.dtype == bool
