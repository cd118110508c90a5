"""Tests of the diagnosis against counts by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.measure.diagnosis import count_destinations, rank_correlation
from tests.models.builders import images_of, run_traced, small, variables_of


def test_count_destinations_averages_over_images():
    target = np.asarray([[0, 0, 3, -1], [2, 2, 2, 2], [-1, -1, -1, -1]])
    destinations, largest_group, lost_fraction = count_destinations(target)
    assert destinations == pytest.approx((2 + 1 + 0) / 3)
    assert largest_group == pytest.approx((2 + 4 + 0) / 3)
    assert lost_fraction == pytest.approx(5 / 12)


def test_rank_correlation_is_spearmans_rho():
    a = jnp.asarray([[1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0]])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    # 1 - 6 sum(d^2) / (n (n^2 - 1)) with d = 0, 1, -1, 0.
    assert rank_correlation(a[:1], jnp.asarray([[1.0, 3.0, 2.0, 4.0]])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation(a[:1], jnp.ones((1, 4))) == 0
    # Ties share their mean rank, so the position of the entry that is not tied does not matter.
    one_hot = jnp.eye(10)
    assert rank_correlation(one_hot[:1], one_hot[1:2]) == pytest.approx(-1 / 9)
    assert rank_correlation(one_hot[:1], one_hot[7:8]) == pytest.approx(-1 / 9)


def test_diagnosis_agrees_with_the_trace():
    model, images = small(tc.TCViT(order=3), [6, 4], depth=2), images_of(3)
    variables = variables_of(model)
    _, trace = run_traced(model, variables, images)
    diagnosis = tc.diagnose(model, variables, images)
    assert [block.block for block in diagnosis.blocks] == [0, 1]
    for block, before, after in zip(diagnosis.blocks, (None, trace.kept[0]), (0, 1), strict=True):
        targets = []
        for image in range(3):
            origins = range(36) if before is None else np.asarray(before[image]).tolist()
            removed = sorted(set(origins) - set(np.asarray(trace.kept[after][image]).tolist()))
            targets.append(np.asarray(trace.slots[after][image])[removed])
        assert (block.destinations, block.largest_group, block.lost_fraction) == count_destinations(np.stack(targets))
        assert block.removed == len(targets[0])
        assert -1 <= block.dominance_correlation <= 1
        assert 0.5 < block.order_correlation <= 1
    assert len(str(diagnosis).splitlines()) == 4


def test_correlations_are_none_for_unused_terms_and_one_for_order_one():
    images = images_of(2)

    def diagnose_block(reducer):
        model = small(reducer, 6, depth=1)
        (block,) = tc.diagnose(model, variables_of(model), images).blocks
        return block

    block = diagnose_block(tc.TCViT(order=1))
    assert block.order_correlation == pytest.approx(1)
    assert block.dominance_correlation is not None
    for reducer in (tc.GTP(), tc.TCViT(balance=0.0)):
        block = diagnose_block(reducer)
        assert block.order_correlation is block.dominance_correlation is None
    block = diagnose_block(tc.TCViT(balance=1.0))
    assert block.dominance_correlation is None
    assert block.order_correlation is not None


def test_dropped_tokens_are_lost():
    model = small(tc.TCViT(fuse="drop"), 6, depth=2)
    blocks = tc.diagnose(model, variables_of(model), images_of(2)).blocks
    assert [(block.destinations, block.lost_fraction) for block in blocks] == [(0, 1)] * 2


def test_reductions_return_plans_with_their_inputs():
    model, images = small(tc.GTP(), [0, 5], depth=2), images_of(2)
    variables = variables_of(model)
    (reduction,) = tc.measure.reductions(model, variables, images)
    assert reduction.block == 1
    assert reduction.tokens.x.shape == (2, 37, 24)
    plan = model.reducer.plan(reduction.tokens, reduction.signals, 31)
    np.testing.assert_array_equal(plan.kept, reduction.plan.kept)
    assert isinstance(reduction.signals.diagonal, jnp.ndarray)


@pytest.mark.parametrize("model", [small(), small(tc.GTP(), 0)])
def test_diagnosis_of_a_model_without_reduction_is_an_error(model):
    with pytest.raises(tc.InputError, match="requires token removal: create the model with a reducer and a schedule"):
        tc.diagnose(model, {}, images_of(1))
