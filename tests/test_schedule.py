"""Schedules: what leaves each block, and what cannot."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax import schedule
from tcvit_jax.models import condense
from tcvit_jax.reducers import REDUCERS


def quadratic(removed, patches=50):
    """A cost that falls with every token removed, more so the earlier."""
    total = 0
    for count in removed:
        patches -= count
        total += patches**2
    return total * 10**9


def stack(patches, depth, **changes):
    return schedule.Stack(patches, depth, quadratic, **changes)


def resolve(value, patches, depth, **changes):
    return schedule.resolve(value, stack(patches, depth, **changes))


def even(total, depth):
    """`total` over the blocks, as evenly as whole tokens allow."""
    edges = [total * block // depth for block in range(depth + 1)]
    return tuple(after - before for before, after in pairwise(edges))


@given(st.integers(2, 300), st.integers(1, 24), st.data())
def test_constant_removes_the_same_everywhere_and_leaves_one(patches, depth, data):
    most = (patches - 1) // depth
    count = data.draw(st.integers(0, most))
    assert resolve(count, patches, depth) == (count,) * depth
    with pytest.raises(tc.InputError, match=f"at most {most} per block leave one"):
        resolve(most + 1, patches, depth)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_list_is_taken_as_it_is_or_refused(counts):
    patches = sum(counts) + 1
    assert resolve(counts, patches, len(counts)) == tuple(counts)
    if sum(counts):
        with pytest.raises(tc.InputError, match="at most .* leave one"):
            resolve(counts, patches - 1, len(counts))


def test_a_list_of_another_length_is_refused():
    with pytest.raises(tc.InputError, match="schedule lists 3 blocks and the model has 4"):
        resolve([1, 2, 3], 64, 4)


@pytest.mark.parametrize("value", [3.9, [1, 1.7], True, "8", None, [True, 1]])
def test_only_whole_numbers_are_tokens(value):
    with pytest.raises(tc.InputError, match="schedule=.*: must be an integer"):
        resolve(value, 64, 2)


def test_numpy_numbers_are_numbers():
    assert resolve(np.int64(3), 64, 2) == (3, 3)
    assert resolve(np.asarray([3, 1]), 64, 2) == (3, 1)


def test_negative_counts_are_refused():
    with pytest.raises(tc.InputError, match="schedule removes -1 tokens in block 1: use 0 or more"):
        resolve([1, -1], 64, 2)


@settings(max_examples=50)
@given(st.floats(0.01, 12000), st.integers(1, 5))
def test_a_budget_is_met_as_nearly_as_a_token_allows_by_an_even_removal(gmacs, depth):
    costs = [quadratic(even(total, depth)) for total in range(50)]
    budget, limit = schedule.budget(gmacs=gmacs), gmacs * 1e9
    if min(costs) > limit:
        with pytest.raises(tc.InputError, match="cannot be met"):
            resolve(budget, 50, depth)
        return
    removed = resolve(budget, 50, depth)
    least = next(total for total, cost in enumerate(costs) if cost <= limit)
    assert len(removed) == depth
    # The fewest evenly spread tokens that fit, or as many and more of late blocks that come nearer.
    assert costs[least] <= quadratic(removed) <= limit
    assert sum(removed) >= least
    assert removed == even(least, depth) or max(removed) - min(removed) <= 2
    fewer = [(*removed[:block], count - 1, *removed[block + 1 :]) for block, count in enumerate(removed) if count]
    assert not fewer or max(map(quadratic, fewer)) > limit


@pytest.mark.parametrize("gmacs", [4.0, 3.44, 2.9, 2.3])
@pytest.mark.parametrize("reducer", [tc.GTP(), tc.TCViT()], ids=["gtp", "tcvit"])
def test_budget_of_a_real_model(gmacs, reducer):
    model = tc.create_model("deit_small_patch16_224", reducer, schedule.budget(gmacs=gmacs))
    # One more token kept in one block is worth about 20 M multiply-adds at most.
    assert gmacs - 0.03 < tc.describe(model).gmacs <= gmacs


def test_a_budget_above_the_dense_model_removes_nothing():
    model = tc.create_model("deit_small_patch16_224", tc.GTP(), schedule.budget(gmacs=5.0))
    assert model.removed == (0,) * 12


@given(st.floats(0.05, 1), st.integers(2, 300), st.integers(1, 24), st.integers(0, 1))
def test_a_keep_rate_takes_the_same_part_of_every_block(rate, patches, depth, extra):
    removed = resolve(schedule.keep_rate(rate), patches, depth, extra_tokens=extra)
    left = patches
    for count in removed:
        kept = max(1, round(rate * left))
        # A token exchanged for a fused one is none less: nothing leaves then.
        assert count == (left - kept if left - kept > extra else 0)
        left -= count - (extra if count else 0)
    assert left >= 1


@pytest.mark.parametrize("rate", [0, -0.1, 1.1])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(tc.InputError, match=r"is not in \(0, 1\]: 1.0 keeps all"):
        resolve(schedule.keep_rate(rate), 64, 4)


def test_a_budget_by_keep_rate_removes_more_where_there_are_more():
    dense = quadratic((0,) * 6) / 1e9
    spread = resolve(schedule.budget(0.5 * dense, "keep_rate"), 50, 6)
    assert quadratic(spread) <= 0.5e9 * dense
    assert list(spread) == sorted(spread, reverse=True)
    # The next rate above it does not fit.
    left, rates = 50, []
    for count in spread:
        rates.append((left - count) / left)
        left -= count
    assert max(rates) - min(rates) < 0.05
    gentler = resolve(schedule.keep_rate(max(rates) + 0.02), 50, 6)
    assert quadratic(gentler) > 0.5e9 * dense


def test_a_budget_of_another_shape_is_refused():
    with pytest.raises(tc.InputError, match="unknown family of a budget: 'keep-rate': did you mean 'keep_rate'?"):
        resolve(schedule.budget(1.0, "keep-rate"), 64, 4)


@given(st.integers(2, 60), st.integers(1, 8), st.data())
def test_tokens_fused_of_others_count_as_left(patches, depth, data):
    most = (patches - 1 + depth - 1) // depth
    if most < 2:
        return
    count = data.draw(st.integers(2, most))
    assert resolve(count, patches, depth, extra_tokens=1) == (count,) * depth
    with pytest.raises(tc.InputError, match=f"at most {most} per block leave one"):
        resolve(most + 1, patches, depth, extra_tokens=1)


def test_a_token_is_not_exchanged_for_one_fused_of_it_alone():
    with pytest.raises(tc.InputError, match="schedule removes 1 token in block 1 and adds 1 fused of it: use 0 or 2"):
        resolve([0, 1, 3], 20, 3, extra_tokens=1)
    for budget in (schedule.budget(8000.0), schedule.budget(8000.0, "keep_rate")):
        assert 1 not in resolve(budget, 50, 6, extra_tokens=1)


@pytest.mark.parametrize(
    "wrong", [schedule.constant(3.5), schedule.explicit((0.5, 1)), schedule.constant(True), schedule.constant("8")]
)
def test_objects_take_whole_numbers_too(wrong):
    with pytest.raises(tc.InputError, match="schedule=.*: must be an integer"):
        resolve(wrong, 64, 2)


def test_a_budget_is_a_number():
    with pytest.raises(
        tc.InputError, match="budget gmacs='3.4' is no positive number of 1e9 multiply-adds, such as 3.4"
    ):
        resolve(schedule.budget("3.4"), 64, 2)
    with pytest.raises(tc.InputError, match="budget gmacs=nan is no positive number"):
        resolve(schedule.budget(float("nan")), 64, 2)


@given(st.integers(0, 20), st.floats(-1, 1), st.integers(2, 12))
def test_a_line_falls_or_rises_by_its_slope_and_removes_what_constant_does(count, slope, depth):
    removed = resolve(schedule.linear(count, slope), 20 * 12 + 1 + 12, depth)
    first = int(count * (1 - slope))
    step = 2 * (count - first) / (depth - 1)
    assert removed == tuple(int(first + step * block) for block in range(depth))
    np.testing.assert_allclose(removed[-1], count * (1 + slope), atol=1 + 1e-9)
    assert list(removed) == sorted(removed, reverse=slope < 0)
    # Each number is rounded down.
    assert count * depth - depth <= sum(removed) <= count * depth
    assert resolve(schedule.linear(count, 0), 20 * 12 + 1, depth) == (count,) * depth


def test_lines_of_tome_s_table():
    """13 tokens of 12 blocks, from twice as many to none, and the other way round."""
    assert resolve(schedule.linear(13, -1), 196, 12) == (26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0)
    assert resolve(schedule.linear(13, 1.0), 196, 12) == (0, 2, 4, 7, 9, 11, 14, 16, 18, 21, 23, 26)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (schedule.linear(8, 1.5), "linear slope=1.5 is not in [-1, 1]: 0 is constant"),
        (schedule.linear(8, "1"), "linear slope='1' is not in [-1, 1]: 0 is constant"),
        (schedule.linear(8.5, 0), "schedule=8.5: must be an integer"),
        (schedule.keep_rate((0.5, 0.5)), "keep_rate lists 2 blocks and the model has 4"),
        (schedule.keep_rate((0.5, 0.5, 2, 1)), "keep_rate=2 is not in (0, 1]: 1.0 keeps all"),
        (schedule.stages((1, 4), 0.5), "stages block 4 is not one of the model's: 0 to 3"),
        (schedule.stages((1.0, 3), 0.5), "stages block=1.0: must be an integer"),
        (schedule.stages((1, 3), 0), "stages rate=0 is not in (0, 1]: 1.0 keeps all"),
    ],
)
def test_what_no_schedule_is_says_why(wrong, message):
    with pytest.raises(tc.InputError) as caught:
        resolve(wrong, 64, 4)
    assert str(caught.value) == message


def test_a_keep_rate_for_every_block_is_taken_block_by_block():
    assert resolve(schedule.keep_rate((0.5, 1, 0.25, 0.9)), 64, 4) == (32, 0, 24, 1)
    assert resolve(schedule.keep_rate([1.0, 0.75]), 10, 2) == (0, 2)


@given(st.integers(3, 300), st.integers(4, 12), st.integers(1, 100), st.integers(0, 1))
def test_stages_keep_a_part_rounded_up_at_their_blocks_alone(patches, depth, percent, extra):
    removed, left = resolve(schedule.stages((0, 3), percent / 100), patches, depth, extra_tokens=extra), patches
    for block, count in enumerate(removed):
        # In whole numbers: 28 % of 25 are 7, and a little more in floating point.
        gone = left + -percent * left // 100 if block in (0, 3) else 0
        assert count == (gone if gone > extra else 0)
        left -= count - (extra if count else 0)


def test_stages_of_evit_and_top_k_are_the_published_counts():
    """DeiT at a rate of 0.7: what is left after each stage, with and without a fused token."""
    model = tc.create_model("deit_small_patch16_224", tc.EViT(), schedule.stages((3, 6, 9), 0.7))
    assert model.cost().tokens[4::3] == (139, 99, 71)
    model = tc.create_model("deit_small_patch16_224", tc.TopK(), schedule.stages((3, 6, 9), 0.7))
    assert model.cost().tokens[4::3] == (138, 97, 68)


@given(st.integers(2, 60), st.lists(st.integers(-2, 30), min_size=1, max_size=8), st.integers(0, 1), st.booleans())
def test_what_is_fitted_to_a_stack_fits_and_is_no_more_than_wanted(patches, wanted, extra, half):
    most = (lambda left: left // 2) if half else (lambda left: left - 1)
    fitted = stack(patches, len(wanted), extra_tokens=extra, max_removable=most).fitted(
        lambda block, left: wanted[block]
    )
    left = patches
    for want, count in zip(wanted, fitted, strict=True):
        possible = min(want, most(left))
        assert count == (possible if possible > extra else 0)
        left -= count - (extra if count else 0)
    assert resolve(list(fitted), patches, len(wanted), extra_tokens=extra, max_removable=most) == fitted


def test_more_than_the_method_can_remove_is_refused_block_by_block():
    half = {"most": lambda left: left // 2}
    assert resolve([5, 2], 10, 2, **half) == (5, 2)
    with pytest.raises(tc.InputError) as caught:
        resolve([5, 3], 10, 2, **half)
    assert str(caught.value) == (
        "schedule removes 3 tokens in block 1, which has 5: the method can remove at most 2 of them"
    )
    for wrong in (schedule.keep_rate(0.3), schedule.stages((0,), 0.3)):
        with pytest.raises(tc.InputError) as caught:
            resolve(wrong, 10, 2, **half)
        assert str(caught.value) == (
            f"{wrong} removes 7 tokens in block 0, which has 10: the method can remove at most 5 of them"
        )


DENSE = tc.create_model("deit_small_patch16_224")
BASELINES = [pytest.param(kind(), id=name) for name, kind in REDUCERS.items()]


@pytest.mark.parametrize("shape", [*schedule.SCHEDULE_FAMILIES, "method"])
@pytest.mark.parametrize("reducer", BASELINES)
def test_every_method_meets_a_budget_of_every_shape(reducer, shape):
    for share in (0.75, 0.6, 0.5):
        budget = schedule.budget(share * DENSE.cost().total / 1e9, shape)
        own = reducer.DEFAULT_SCHEDULE if shape == "method" else shape
        # Distances of all features, in every block, cost more than half of what there is to save.
        if share == 0.5 and own == "constant" and isinstance(reducer, tc.DPCKNN | tc.KMedoids):
            with pytest.raises(
                tc.InputError, match=r"budget gmacs=2.29944 cannot be met: the least is 2.3\d, with as few"
            ):
                condense(DENSE, reducer, budget)
        else:
            model = condense(DENSE, reducer, budget)
            assert 0.99 < model.cost().total / 1e9 / budget.gmacs <= 1
            blocks = [block for block, count in enumerate(model.removed) if count]
            assert blocks == (list(schedule.thirds(12)) if own == "stages" else list(range(12)))
            if shape == "method":
                assert model.removed == condense(DENSE, reducer, replace(budget, family=own)).removed


def test_thirds_of_short_models_are_blocks_of_theirs():
    assert schedule.thirds(12) == (3, 6, 9)
    assert [schedule.thirds(depth) for depth in (1, 2, 3, 4)] == [(0,), (0, 1), (0, 1, 2), (1, 2, 3)]
