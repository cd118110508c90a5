"""What the diagnosis counts, against counts by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.measure.diagnosis import count_destinations, rank_correlation
from tests.models.builders import images_of, run_traced, small, variables_of


def test_destinations_are_counted_by_image():
    target = np.asarray([[0, 0, 3, -1], [2, 2, 2, 2], [-1, -1, -1, -1]])
    destinations, largest, lost = count_destinations(target)
    assert destinations == pytest.approx((2 + 1 + 0) / 3)
    assert largest == pytest.approx((2 + 4 + 0) / 3)
    assert lost == pytest.approx(5 / 12)


def test_rank_correlation_is_spearman_s():
    a = jnp.asarray([[1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0]])
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    # 1 - 6 sum(d^2) / (n (n^2 - 1)) with d = 0, 1, -1, 0.
    assert rank_correlation(a[:1], jnp.asarray([[1.0, 3.0, 2.0, 4.0]])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation(a[:1], jnp.ones((1, 4))) == 0
    # Ties share a rank: where the one that is not tied stands does not matter.
    ones = jnp.eye(10)
    assert rank_correlation(ones[:1], ones[1:2]) == pytest.approx(-1 / 9)
    assert rank_correlation(ones[:1], ones[7:8]) == pytest.approx(-1 / 9)


def test_it_agrees_with_the_trace():
    model, images = small(tc.TCViT(order=3), [6, 4], depth=2), images_of(3)
    variables = variables_of(model)
    _, trace = run_traced(model, variables, images)
    diagnosis = tc.diagnose(model, variables, images)
    assert [block.block for block in diagnosis.blocks] == [0, 1]
    for found, before, after in zip(diagnosis.blocks, (None, trace.kept[0]), (0, 1), strict=True):
        targets = []
        for image in range(3):
            origins = range(36) if before is None else np.asarray(before[image]).tolist()
            gone = sorted(set(origins) - set(np.asarray(trace.kept[after][image]).tolist()))
            targets.append(np.asarray(trace.slots[after][image])[gone])
        assert (found.destinations, found.largest, found.lost) == count_destinations(np.stack(targets))
        assert found.removed == len(targets[0])
        assert -1 <= found.dominance <= 1
        assert 0.5 < found.order <= 1
    assert len(str(diagnosis).splitlines()) == 4


def test_order_one_agrees_with_itself_and_terms_left_out_have_no_rank():
    images = images_of(2)

    def diagnosed(reducer):
        model = small(reducer, 6, depth=1)
        (block,) = tc.diagnose(model, variables_of(model), images).blocks
        return block

    both = diagnosed(tc.TCViT(order=1))
    assert both.order == pytest.approx(1)
    assert both.dominance is not None
    for reducer in (tc.GTP(), tc.TCViT(balance=0.0)):
        block = diagnosed(reducer)
        assert block.order is block.dominance is None
    alone = diagnosed(tc.TCViT(balance=1.0))
    assert alone.dominance is None
    assert alone.order is not None


def test_dropped_tokens_are_lost():
    model = small(tc.TCViT(fuse="drop"), 6, depth=2)
    blocks = tc.diagnose(model, variables_of(model), images_of(2)).blocks
    assert [(block.destinations, block.lost) for block in blocks] == [(0, 1)] * 2


def test_reductions_hand_out_what_was_planned():
    model, images = small(tc.GTP(), [0, 5], depth=2), images_of(2)
    variables = variables_of(model)
    (reduction,) = tc.measure.reductions(model, variables, images)
    assert reduction.block == 1
    assert reduction.tokens.x.shape == (2, 37, 24)
    again = model.reducer.plan(reduction.tokens, reduction.signals, 31)
    np.testing.assert_array_equal(again.kept, reduction.plan.kept)
    assert isinstance(reduction.signals.diagonal, jnp.ndarray)


@pytest.mark.parametrize("model", [small(), small(tc.GTP(), 0)])
def test_a_model_that_removes_nothing_is_refused(model):
    with pytest.raises(tc.InputError, match="removes no tokens: create it with a reducer and a schedule"):
        tc.diagnose(model, {}, images_of(1))
