"""Classification scores agree with the evaluation."""

import json

import jax
import pytest

from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.evaluation import evaluate, make_eval_step
from tcvit_jax.sharding import data_mesh
from tcvit_jax.tasks.base import Subject
from tcvit_jax.tasks.classify import Classify
from tcvit_jax.tasks.scores import Scores
from tests.benchmark.conftest import save


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return [from_checkpoint(save(folder / str(seed), seed)) for seed in (0, 1)]


def score(pretrained, variables):
    data = pretrained.eval_data()
    subject = Subject(pretrained.model, variables, pretrained.preprocessing, data, None, pretrained.model.grid)
    task, mesh = Classify(), data_mesh()
    assert task.reference(subject, mesh) is None
    return task.scores(task.outputs(subject, mesh), None), data


def test_images_with_nonfinite_logits_are_counted(pretrained):
    first = pretrained[0]
    damaged = jax.tree.map(lambda leaf: leaf * float("nan"), first.variables)
    actual, data = score(first, [first.variables, damaged])
    assert actual.nonfinite == len(data.source)
    assert not actual.metrics["top1"][1].any()
    assert Scores.from_json(json.loads(json.dumps(actual.to_json()))).nonfinite == actual.nonfinite
    result = evaluate(
        make_eval_step(first.model, first.preprocessing, data_mesh()), damaged, data.batches(), data_mesh()
    )
    assert (result.nonfinite, result.top1) == (len(data.source), 0)


def test_hits_agree_with_evaluate(pretrained):
    first = pretrained[0]
    actual, data = score(first, [each.variables for each in pretrained])
    assert actual.primary.shape == (2, len(data.source))
    step = make_eval_step(first.model, first.preprocessing, data_mesh())
    for row, each in enumerate(pretrained):
        result = evaluate(step, each.variables, data.batches(), data_mesh())
        assert actual.metrics["top1"][row].mean() == result.top1
        assert actual.metrics["top5"][row].mean() == result.top5
    # The seeds differ.
    assert (actual.metrics["top1"][0] != actual.metrics["top1"][1]).any()
