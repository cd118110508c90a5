"""Schedules: what leaves each block, and what cannot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax import schedule


def quadratic(removed, patches=50):
    """A cost that falls with every token removed, more so the earlier."""
    total = 0
    for count in removed:
        patches -= count
        total += patches**2
    return total * 10**9


@given(st.integers(2, 300), st.integers(1, 24), st.data())
def test_constant_removes_the_same_everywhere_and_leaves_one(patches, depth, data):
    most = (patches - 1) // depth
    count = data.draw(st.integers(0, most))
    assert schedule.resolve(count, patches, depth, quadratic) == (count,) * depth
    with pytest.raises(tc.InputError, match=f"at most {most} per block leave one"):
        schedule.resolve(most + 1, patches, depth, quadratic)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_a_list_is_taken_as_it_is_or_refused(counts):
    patches = sum(counts) + 1
    assert schedule.resolve(counts, patches, len(counts), quadratic) == tuple(counts)
    if sum(counts):
        with pytest.raises(tc.InputError, match="at most .* leave one"):
            schedule.resolve(counts, patches - 1, len(counts), quadratic)


def test_a_list_of_another_length_is_refused():
    with pytest.raises(tc.InputError, match="schedule lists 3 blocks and the model has 4"):
        schedule.resolve([1, 2, 3], 64, 4, quadratic)


@pytest.mark.parametrize("value", [3.9, [1, 1.7], True, "8", None, [True, 1]])
def test_only_whole_numbers_are_tokens(value):
    with pytest.raises(tc.InputError, match="schedule takes a whole number, and was given"):
        schedule.resolve(value, 64, 2, quadratic)


def test_numpy_numbers_are_numbers():
    assert schedule.resolve(np.int64(3), 64, 2, quadratic) == (3, 3)
    assert schedule.resolve(np.asarray([3, 1]), 64, 2, quadratic) == (3, 1)


def test_negative_counts_are_refused():
    with pytest.raises(tc.InputError, match="schedule removes -1 tokens in block 1: use 0 or more"):
        schedule.resolve([1, -1], 64, 2, quadratic)


@settings(max_examples=50)
@given(st.floats(0.01, 12000), st.integers(1, 5))
def test_budget_is_the_least_even_removal_that_fits(gmacs, depth):
    costs = [quadratic(schedule._spread(total, depth)) for total in range(50)]
    budget = schedule.budget(gmacs=gmacs)
    if min(costs) > gmacs * 1e9:
        with pytest.raises(tc.InputError, match="cannot be met"):
            schedule.resolve(budget, 50, depth, quadratic)
        return
    removed = schedule.resolve(budget, 50, depth, quadratic)
    assert len(removed) == depth
    assert max(removed) - min(removed) <= 1
    assert quadratic(removed) <= gmacs * 1e9
    assert all(cost > gmacs * 1e9 for cost in costs[: sum(removed)])


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
    removed = schedule.resolve(schedule.keep_rate(rate), patches, depth, quadratic, extra)
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
        schedule.resolve(schedule.keep_rate(rate), 64, 4, quadratic)


def test_a_budget_by_keep_rate_removes_more_where_there_are_more():
    dense = quadratic((0,) * 6) / 1e9
    spread = schedule.resolve(schedule.budget(0.5 * dense, "keep_rate"), 50, 6, quadratic)
    assert quadratic(spread) <= 0.5e9 * dense
    assert list(spread) == sorted(spread, reverse=True)
    # The next rate above it does not fit.
    left, rates = 50, []
    for count in spread:
        rates.append((left - count) / left)
        left -= count
    assert max(rates) - min(rates) < 0.05
    gentler = schedule.resolve(schedule.keep_rate(max(rates) + 0.02), 50, 6, quadratic)
    assert quadratic(gentler) > 0.5e9 * dense


def test_a_budget_of_another_shape_is_refused():
    with pytest.raises(tc.InputError, match="unknown shape of a budget: 'keep-rate': did you mean 'keep_rate'?"):
        schedule.resolve(schedule.budget(1.0, "keep-rate"), 64, 4, quadratic)


@given(st.integers(2, 60), st.integers(1, 8), st.data())
def test_tokens_fused_of_others_count_as_left(patches, depth, data):
    most = (patches - 1 + depth - 1) // depth
    if most < 2:
        return
    count = data.draw(st.integers(2, most))
    assert schedule.resolve(count, patches, depth, quadratic, extra=1) == (count,) * depth
    with pytest.raises(tc.InputError, match=f"at most {most} per block leave one"):
        schedule.resolve(most + 1, patches, depth, quadratic, extra=1)


def test_a_token_is_not_exchanged_for_one_fused_of_it_alone():
    with pytest.raises(tc.InputError, match="schedule removes 1 token in block 1 and adds 1 fused of it: use 0 or 2"):
        schedule.resolve([0, 1, 3], 20, 3, quadratic, extra=1)
    for budget in (schedule.budget(8000.0), schedule.budget(8000.0, "keep_rate")):
        assert 1 not in schedule.resolve(budget, 50, 6, quadratic, extra=1)


@pytest.mark.parametrize("wrong", [schedule.constant(3.5), schedule.explicit((0.5, 1)), schedule.constant(True)])
def test_objects_take_whole_numbers_too(wrong):
    with pytest.raises(tc.InputError, match="schedule takes a whole number, and was given"):
        schedule.resolve(wrong, 64, 2, quadratic)


def test_a_budget_is_a_number():
    with pytest.raises(tc.InputError, match="budget gmacs='3.4' is no number of 1e9 multiply-adds, such as 3.4"):
        schedule.resolve(schedule.budget("3.4"), 64, 2, quadratic)
