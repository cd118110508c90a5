"""Schedules: the number of tokens removed in each block, and their errors."""

from dataclasses import replace
from itertools import count as count_up
from itertools import pairwise
from math import ceil

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax import schedule
from tcvit_jax.models import condense
from tcvit_jax.reducers import REDUCERS


def quadratic(removed, patches=50):
    """Return a cost that falls with every removed token, more for earlier blocks."""
    total = 0
    for count in removed:
        patches -= count
        total += patches**2
    return total * 10**9


def stack(patches, depth, **changes):
    return schedule.Stack(patches, depth, quadratic, **changes)


def resolve(value, patches, depth, **changes):
    return schedule.resolve(value, stack(patches, depth, **changes))


def spread_evenly(total, depth):
    """Return `total` spread over the blocks as evenly as integers allow."""
    edges = [total * block // depth for block in range(depth + 1)]
    return tuple(after - before for before, after in pairwise(edges))


@given(st.integers(2, 300), st.integers(1, 24), st.data())
def test_constant_removes_the_same_number_in_every_block_and_leaves_one_token(patches, depth, data):
    limit = (patches - 1) // depth
    count = data.draw(st.integers(0, limit))
    assert resolve(count, patches, depth) == (count,) * depth
    with pytest.raises(tc.InputError, match=f"schedule={limit + 1}: must be <= {limit}; "):
        resolve(limit + 1, patches, depth)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_list_is_used_unchanged_or_rejected(counts):
    patches = sum(counts) + 1
    assert resolve(counts, patches, len(counts)) == tuple(counts)
    if sum(counts):
        with pytest.raises(
            tc.InputError, match=r"must be <= \d+; one of the \d+ patch tokens in block \d+ must remain"
        ):
            resolve(counts, patches - 1, len(counts))


def test_list_of_wrong_length_is_rejected():
    with pytest.raises(tc.InputError, match="schedule: expected 4 numbers, one per block, got 3"):
        resolve([1, 2, 3], 64, 4)


@pytest.mark.parametrize("value", [3.9, [1, 1.7], True, "8", None, [True, 1]])
def test_non_integers_are_rejected(value):
    with pytest.raises(tc.InputError, match="schedule=.*: must be an integer"):
        resolve(value, 64, 2)


def test_numpy_integers_are_accepted():
    assert resolve(np.int64(3), 64, 2) == (3, 3)
    assert resolve(np.asarray([3, 1]), 64, 2) == (3, 1)


def test_negative_counts_are_rejected():
    with pytest.raises(tc.InputError, match=r"schedule\[1\]=-1: must be >= 0"):
        resolve([1, -1], 64, 2)


@settings(max_examples=50)
@given(st.floats(0.01, 12000), st.integers(1, 5))
def test_budget_is_met_within_one_token_by_even_removal(gmacs, depth):
    costs = [quadratic(spread_evenly(total, depth)) for total in range(50)]
    budget, limit = schedule.budget(gmacs=gmacs), gmacs * 1e9
    if min(costs) > limit:
        with pytest.raises(tc.InputError, match="budget gmacs=.*: must be >= "):
            resolve(budget, 50, depth)
        return
    removed = resolve(budget, 50, depth)
    fewest = next(total for total, cost in enumerate(costs) if cost <= limit)
    assert len(removed) == depth
    # The fewest evenly spread removals that fit, or at least that number in late blocks, closer to the budget.
    assert costs[fewest] <= quadratic(removed) <= limit
    assert sum(removed) >= fewest
    assert removed == spread_evenly(fewest, depth) or max(removed) - min(removed) <= 2
    fewer = [(*removed[:block], count - 1, *removed[block + 1 :]) for block, count in enumerate(removed) if count]
    assert not fewer or max(map(quadratic, fewer)) > limit


@pytest.mark.parametrize("gmacs", [4.0, 3.44, 2.9, 2.3])
@pytest.mark.parametrize("reducer", [tc.GTP(), tc.TCViT()], ids=["gtp", "tcvit"])
def test_budget_of_deit_small(gmacs, reducer):
    model = tc.create_model("deit_small_patch16_224", reducer, schedule.budget(gmacs=gmacs))
    # One more token in one block costs at most about 20e6 multiply-adds.
    assert gmacs - 0.03 < tc.describe(model).gmacs <= gmacs


def test_budget_above_the_dense_model_removes_nothing():
    model = tc.create_model("deit_small_patch16_224", tc.GTP(), schedule.budget(gmacs=5.0))
    assert model.removed == (0,) * 12


@given(st.floats(0.05, 1), st.integers(2, 300), st.integers(1, 24), st.integers(0, 1))
def test_keep_rate_keeps_the_same_fraction_in_every_block(rate, patches, depth, extra):
    removed = resolve(schedule.keep_rate(rate), patches, depth, extra_tokens=extra)
    left = patches
    for count in removed:
        # One token may be replaced by one fused token.
        assert count == left - ceil(round(rate * left, 9))
        left -= count - (extra if count else 0)
    assert left >= 1


@pytest.mark.parametrize("rate", [0, -0.1, 1.1])
def test_keep_rate_outside_its_range_is_rejected(rate):
    with pytest.raises(tc.InputError, match=r"keep_rate=.*: must be in \(0, 1\]; 1.0 keeps all tokens"):
        resolve(schedule.keep_rate(rate), 64, 4)


def test_keep_rate_budget_removes_more_in_blocks_with_more_tokens():
    dense = quadratic((0,) * 6) / 1e9
    spread = resolve(schedule.budget(0.5 * dense, "keep_rate"), 50, 6)
    assert quadratic(spread) <= 0.5e9 * dense
    assert list(spread) == sorted(spread, reverse=True)
    # A slightly higher keep rate exceeds the budget.
    left, rates = 50, []
    for count in spread:
        rates.append((left - count) / left)
        left -= count
    assert max(rates) - min(rates) < 0.05
    higher = resolve(schedule.keep_rate(max(rates) + 0.02), 50, 6)
    assert quadratic(higher) > 0.5e9 * dense


def test_unknown_schedule_family_is_rejected():
    with pytest.raises(tc.InputError, match="unknown schedule family 'keep-rate': did you mean 'keep_rate'?"):
        resolve(schedule.budget(1.0, "keep-rate"), 64, 4)


@given(st.integers(2, 60), st.integers(1, 8), st.data())
def test_fused_tokens_count_as_tokens_left(patches, depth, data):
    limit = (patches - 1 + depth - 1) // depth
    count = data.draw(st.integers(1, limit))
    assert resolve(count, patches, depth, extra_tokens=1) == (count,) * depth
    with pytest.raises(tc.InputError, match=f"schedule={limit + 1}: must be <= {limit}; "):
        resolve(limit + 1, patches, depth, extra_tokens=1)


def test_budgets_do_not_replace_one_token_by_one_fused_token():
    assert resolve([0, 1, 3], 20, 3, extra_tokens=1) == (0, 1, 3)
    message = r"schedule\[1\]=1: must be 0 or >= 2; the method adds 2 fused tokens"
    with pytest.raises(tc.InputError, match=message):
        resolve([0, 1, 3], 20, 3, extra_tokens=2)
    for budget in (schedule.budget(8000.0), schedule.budget(8000.0, "keep_rate")):
        assert 1 not in resolve(budget, 50, 6, extra_tokens=1)


@pytest.mark.parametrize(
    "invalid", [schedule.constant(3.5), schedule.explicit((0.5, 1)), schedule.constant(True), schedule.constant("8")]
)
def test_schedule_objects_reject_non_integers(invalid):
    with pytest.raises(tc.InputError, match="schedule=.*: must be an integer"):
        resolve(invalid, 64, 2)


def test_budget_rejects_values_that_are_not_positive_numbers():
    with pytest.raises(tc.InputError, match="budget gmacs='3.4': must be a number > 0; its unit is 1e9 multiply-adds"):
        resolve(schedule.budget("3.4"), 64, 2)
    with pytest.raises(tc.InputError, match="budget gmacs=nan: must be a number > 0"):
        resolve(schedule.budget(float("nan")), 64, 2)


@given(st.integers(0, 20), st.floats(-1, 1), st.integers(2, 12))
def test_linear_follows_its_slope_with_the_mean_of_constant(count, slope, depth):
    removed = resolve(schedule.linear(count, slope), 20 * 12 + 1 + 12, depth)
    first = int(count * (1 - slope))
    step = 2 * (count - first) / (depth - 1)
    assert removed == tuple(int(first + step * block) for block in range(depth))
    np.testing.assert_allclose(removed[-1], count * (1 + slope), atol=1 + 1e-9)
    assert list(removed) == sorted(removed, reverse=slope < 0)
    # Each number is rounded down.
    assert count * depth - depth <= sum(removed) <= count * depth
    assert resolve(schedule.linear(count, 0), 20 * 12 + 1, depth) == (count,) * depth


def test_linear_equals_the_schedules_of_tome():
    """13 tokens per block on average, from 26 to 0 and from 0 to 26."""
    assert resolve(schedule.linear(13, -1), 196, 12) == (26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0)
    assert resolve(schedule.linear(13, 1.0), 196, 12) == (0, 2, 4, 7, 9, 11, 14, 16, 18, 21, 23, 26)


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        (schedule.linear(8, 1.5), "linear slope=1.5: must be in [-1, 1]; 0 removes the same number in every block"),
        (schedule.linear(8, "1"), "linear slope='1': must be in [-1, 1]; 0 removes the same number in every block"),
        (schedule.linear(8.5, 0), "schedule=8.5: must be an integer"),
        (schedule.keep_rate((0.5, 0.5)), "keep_rate: expected 4 rates, one per block, got 2"),
        (schedule.keep_rate((0.5, 0.5, 2, 1)), "keep_rate=2: must be in (0, 1]; 1.0 keeps all tokens"),
        (schedule.stages((1, 4), 0.5), "stages block=4: must be in [0, 3]; the model has 4 blocks"),
        (schedule.stages((1.0, 3), 0.5), "stages block=1.0: must be an integer"),
        (schedule.stages((1, 3), 0), "stages rate=0: must be in (0, 1]; 1.0 keeps all tokens"),
        (schedule.deferred(4, 0.1), "deferred tau=4: must be in [0, 3]; the model has 4 blocks"),
        (schedule.deferred(1.5, 0.1), "deferred tau=1.5: must be an integer"),
        (schedule.deferred(1, 1.5), "deferred rate=1.5: must be in [0, 1]; 0 removes nothing"),
    ],
)
def test_invalid_schedules_name_the_condition(invalid, message):
    with pytest.raises(tc.InputError) as error:
        resolve(invalid, 64, 4)
    assert str(error.value) == message


def test_keep_rate_accepts_one_rate_per_block():
    assert resolve(schedule.keep_rate((0.5, 1, 0.25, 0.8)), 64, 4) == (32, 0, 24, 1)
    assert resolve(schedule.keep_rate([1.0, 0.75]), 10, 2) == (0, 2)


@given(st.integers(3, 300), st.integers(4, 12), st.integers(1, 100), st.integers(0, 1))
def test_stages_keep_a_fraction_rounded_up_in_their_blocks_only(patches, depth, percent, extra):
    removed, left = resolve(schedule.stages((0, 3), percent / 100), patches, depth, extra_tokens=extra), patches
    for block, count in enumerate(removed):
        # Integer arithmetic: 28 % of 25 is 7, but slightly more in floating point.
        assert count == (left + -percent * left // 100 if block in (0, 3) else 0)
        left -= count - (extra if count else 0)


def test_stages_equal_the_published_token_counts_of_evit_and_topk():
    """DeiT at a keep rate of 0.7: tokens after each stage, with and without a fused token."""
    model = tc.create_model("deit_small_patch16_224", tc.EViT(), schedule.stages((3, 6, 9), 0.7))
    assert model.cost().tokens[4::3] == (139, 99, 71)
    model = tc.create_model("deit_small_patch16_224", tc.TopK(), schedule.stages((3, 6, 9), 0.7))
    assert model.cost().tokens[4::3] == (138, 97, 68)


@given(st.integers(2, 300), st.integers(1, 24), st.integers(0, 100), st.integers(0, 1), st.data())
def test_deferred_follows_its_line_after_the_first_blocks(patches, depth, percent, extra, data):
    tau = data.draw(st.integers(0, depth - 1))
    removed = resolve(schedule.deferred(tau, percent / 100), patches, depth, extra_tokens=extra)
    left = patches
    for number, count in enumerate(removed, 1):
        # Integer arithmetic, with blocks counted from 1: the kept tokens are rounded up.
        kept = max(1, -(-patches * (100 - (number - tau) * percent) // 100)) if number > tau and percent else left
        assert left - count == min(kept, left)
        left -= count - (extra if count else 0)


def test_deferred_removes_what_a_method_can():
    """A method that removes at most half of the tokens reaches the line later."""
    half = {"max_removable": lambda left: left // 2}
    assert resolve(schedule.deferred(1, 0.6), 20, 4) == (0, 12, 7, 0)
    assert resolve(schedule.deferred(1, 0.6), 20, 4, **half) == (0, 10, 5, 2)
    assert resolve(schedule.deferred(0, 0), 20, 3) == (0, 0, 0)
    stack_of_depth = stack(196, 12)
    assert schedule.SCHEDULE_FAMILIES["deferred"](stack_of_depth, 0.1) == schedule.deferred(3, 0.1).removed(
        stack_of_depth
    )


def lower_to_fives(left, count):
    return count - count % 5


def test_counts_are_lowered_to_those_of_the_method_and_the_rest_is_removed_later():
    fives = {"lower_count": lower_to_fives}
    assert resolve(schedule.at_most((4, 0, 7, 9, 20)), 40, 5, **fives) == (0, 0, 5, 5, 20)
    assert resolve(schedule.keep_rate(0.9), 40, 4, **fives) == (0, 5, 5, 0)
    assert resolve(schedule.linear(4, 0.5), 40, 4, **fives) == (0, 5, 0, 10)
    assert resolve(schedule.deferred(1, 0.1), 40, 4, **fives) == (0, 0, 5, 5)
    for value, block in ((schedule.constant(4), 0), (schedule.explicit((0, 9, 5, 5)), 1)):
        with pytest.raises(tc.InputError) as error:
            resolve(value, 20, 4, **fives)
        count = value.removed(stack(20, 4))[block]
        assert str(error.value) == (
            f"schedule: removes {count} of 20 patch tokens in block {block}; the method can remove one of 0, 5, 10, 15"
        )
    assert resolve([5, 5], 20, 2, **fives) == (5, 5)
    with pytest.raises(tc.InputError, match="at_most: expected 3 numbers, one per block, got 2"):
        resolve(schedule.at_most((4, 4)), 40, 3)


@given(st.floats(0, 1), st.sampled_from(sorted(schedule.SCHEDULE_FAMILIES)), st.integers(2, 200), st.integers(1, 12))
def test_families_remove_numbers_that_the_method_allows(strength, family, patches, depth):
    steps = stack(patches, depth, lower_count=lower_to_fives)
    counts = schedule.SCHEDULE_FAMILIES[family](steps, strength)
    assert resolve(counts, patches, depth, lower_count=lower_to_fives) == counts
    exact = schedule.SCHEDULE_FAMILIES[family](stack(patches, depth), strength)
    # What is left over never exceeds one step.
    for block in [block for block, count in enumerate(exact) if count]:
        assert 0 <= sum(exact[: block + 1]) - sum(counts[: block + 1]) < 5


@given(st.integers(2, 60), st.lists(st.integers(-2, 30), min_size=1, max_size=8), st.integers(0, 1), st.booleans())
def test_clipped_removals_fit_the_stack_and_do_not_exceed_the_desired_ones(patches, desired, extra, half):
    max_removable = (lambda left: left // 2) if half else (lambda left: left - 1)
    clipped = stack(patches, len(desired), extra_tokens=extra, max_removable=max_removable).clip(
        lambda block, left: desired[block]
    )
    left = patches
    for number, count in zip(desired, clipped, strict=True):
        limited = min(number, max_removable(left))
        assert count == (limited if limited > extra else 0)
        left -= count - (extra if count else 0)
    assert resolve(list(clipped), patches, len(desired), extra_tokens=extra, max_removable=max_removable) == clipped


def test_removals_beyond_the_limit_of_the_method_are_rejected():
    half = {"max_removable": lambda left: left // 2}
    assert resolve([5, 2], 10, 2, **half) == (5, 2)
    with pytest.raises(tc.InputError) as error:
        resolve([5, 3], 10, 2, **half)
    assert str(error.value) == "schedule: removes 3 of 5 patch tokens in block 1; the method can remove at most 2"
    for invalid in (schedule.keep_rate(0.3), schedule.stages((0,), 0.3)):
        with pytest.raises(tc.InputError) as error:
            resolve(invalid, 10, 2, **half)
        assert str(error.value) == (
            f"{invalid}: removes 7 of 10 patch tokens in block 0; the method can remove at most 5"
        )


DENSE = tc.create_model("deit_small_patch16_224")
REDUCERS_BY_NAME = [pytest.param(kind(), id=name) for name, kind in REDUCERS.items()]


@pytest.mark.parametrize("family", [*schedule.SCHEDULE_FAMILIES, "method"])
@pytest.mark.parametrize("reducer", REDUCERS_BY_NAME)
def test_every_method_meets_a_budget_of_every_family(reducer, family):
    for share in (0.75, 0.6, 0.5):
        budget = schedule.budget(share * DENSE.cost().total / 1e9, family)
        resolved = reducer.DEFAULT_SCHEDULE if family == "method" else family
        # Pairwise feature distances or the MLP of all tokens in every block cost more than this budget allows, and a grid
        # loses even numbers of tokens too late.
        costly = tc.DPCKNN | tc.KMedoids | tc.RepresentationShift | tc.CubistMerge
        if share == 0.5 and resolved == "constant" and isinstance(reducer, costly):
            with pytest.raises(
                tc.InputError,
                match=r"budget gmacs=2.29944: must be >= 2.[34]\d+; this is the cost with the fewest patch tokens",
            ):
                condense(DENSE, reducer, budget)
        else:
            model = condense(DENSE, reducer, budget)
            assert 0.99 < model.cost().total / 1e9 / budget.gmacs <= 1
            blocks = [block for block, count in enumerate(model.removed) if count]
            if resolved == "deferred":
                assert set(blocks) <= set(range(3, 12))
            elif isinstance(reducer, tc.CubistMerge) and resolved != "stages":
                # A column or row of 14 patches leaves at a time.
                assert len(blocks) > 5
            else:
                assert blocks == (list(schedule.stage_blocks(12)) if resolved == "stages" else list(range(12)))
            if family == "method":
                assert model.removed == condense(DENSE, reducer, replace(budget, family=resolved)).removed


def test_stage_blocks_of_short_models_are_distinct():
    assert schedule.stage_blocks(12) == (3, 6, 9)
    assert [schedule.stage_blocks(depth) for depth in (1, 2, 3, 4)] == [(0,), (0, 1), (0, 1, 2), (1, 2, 3)]


NAN = float("nan")
# Values that no schedule takes: they are quoted in the error as they were passed.
NO_NUMBERS = ["0.5", "8", b"8", None, {0.5, 0.25}, {0: 1}, object, True, np.bool_(True), NAN, -1.5, 1j]


@pytest.mark.parametrize(
    "array", [list, tuple, np.asarray, jnp.asarray, iter], ids=["list", "tuple", "numpy", "jax", "iterator"]
)
def test_sequences_arrays_and_iterators_of_the_same_numbers_are_the_same_schedule(array):
    assert resolve(array([3, 1]), 64, 2) == (3, 1)
    assert resolve(schedule.explicit(array([3, 1])), 64, 2) == (3, 1)
    assert resolve(schedule.keep_rate(array([0.5, 0.75])), 64, 2) == (32, 8)
    assert resolve(schedule.stages(array([0, 2]), 0.5), 64, 3) == (32, 0, 16)
    assert schedule.keep_rate(array([0.5, 0.75])) == schedule.keep_rate((0.5, 0.75))
    assert hash(schedule.keep_rate(array([0.5, 0.75]))) == hash(schedule.keep_rate((0.5, 0.75)))
    # A schedule is resolved again for another model.
    rates = schedule.keep_rate(array([0.5, 0.75]))
    assert resolve(rates, 64, 2) == resolve(rates, 64, 2)


@pytest.mark.parametrize("scalar", [np.asarray, jnp.asarray, np.float32], ids=["numpy", "jax", "scalar"])
def test_scalars_of_arrays_are_numbers(scalar):
    assert resolve(schedule.keep_rate(scalar(0.5)), 64, 2) == (32, 16)
    assert resolve(schedule.stages(1, scalar(0.5)), 64, 2) == (0, 32)
    assert resolve(schedule.linear(8, scalar(-0.5)), 64, 3) == resolve(schedule.linear(8, -0.5), 64, 3)
    assert resolve(schedule.budget(scalar(8000.0)), 50, 4) == resolve(schedule.budget(8000.0), 50, 4)
    assert resolve(np.asarray(3), 64, 2) == resolve(jnp.asarray(3), 64, 2) == (3, 3)


def test_a_single_stage_is_an_index():
    assert resolve(schedule.stages(1, 0.5), 64, 3) == resolve(schedule.stages((1,), 0.5), 64, 3) == (0, 32, 0)


MAKERS = {
    "schedule": (lambda value: value, "schedule"),
    "constant": (schedule.constant, "schedule"),
    "explicit": (schedule.explicit, "schedule"),
    "linear count": (lambda value: schedule.linear(value, 0), "schedule"),
    "linear slope": (lambda value: schedule.linear(8, value), "linear slope"),
    "keep_rate": (schedule.keep_rate, "keep_rate"),
    "stages blocks": (lambda value: schedule.stages(value, 0.5), "stages block"),
    "deferred tau": (lambda value: schedule.deferred(value, 0.5), "deferred tau"),
    "deferred rate": (lambda value: schedule.deferred(0, value), "deferred rate"),
    "at_most": (schedule.at_most, "schedule"),
    "stages rate": (lambda value: schedule.stages((1,), value), "stages rate"),
    "budget": (schedule.budget, "budget gmacs"),
    "family": (lambda value: schedule.budget(1.0, value), "unknown schedule family"),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_values_of_another_kind_are_errors_of_one_line_that_quote_them(name, value):
    make, key = MAKERS[name]
    with pytest.raises(tc.InputError) as error:
        resolve(make(value), 64, 2)
    message = str(error.value)
    assert message.startswith(key)
    assert repr(value.item() if isinstance(value, np.generic) else value) in message


def test_class_of_a_schedule_instead_of_an_object_is_rejected():
    with pytest.raises(
        tc.InputError, match="schedule=<class .*keep_rate'>: must be an integer, a sequence of one integer"
    ):
        resolve(schedule.keep_rate, 64, 2)


@pytest.mark.parametrize("value", [{3, 1}, frozenset({3}), {3: 1, 1: 2}, "31"])
def test_numbers_without_an_order_are_not_a_schedule(value):
    for make in (lambda value: value, schedule.explicit):
        with pytest.raises(tc.InputError) as error:
            resolve(make(value), 64, 2)
        assert str(error.value) == (
            f"schedule={value!r}: must be an integer, a sequence of one integer per block, or a schedule object"
        )


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        (schedule.keep_rate("0.5"), "keep_rate='0.5': must be in (0, 1]; 1.0 keeps all tokens"),
        (schedule.keep_rate(np.asarray([0.5, NAN])), "keep_rate=nan: must be in (0, 1]; 1.0 keeps all tokens"),
        (schedule.stages("13", 0.5), "stages block='13': must be an integer"),
        (schedule.stages((1,), (0.5, 0.7)), "stages rate=(0.5, 0.7): must be in (0, 1]; 1.0 keeps all tokens"),
        (schedule.linear(-8, 0.5), "schedule=-8: must be >= 0"),
        (schedule.linear(8, -1.5), "linear slope=-1.5: must be in [-1, 1]; 0 removes the same number in every block"),
        (schedule.constant(-1), "schedule=-1: must be >= 0"),
        (np.asarray([[3, 1]]), "schedule=(3, 1): must be an integer"),
        (np.asarray([3.0, 1.0]), "schedule=3.0: must be an integer"),
        (count_up(), "schedule: expected 2 numbers, one per block, got 10000"),
        (schedule.budget(1.0, ["keep_rate"]), "unknown schedule family ('keep_rate',): did you mean 'keep_rate'?"),
    ],
)
def test_kinds_of_wrong_values_name_the_condition(invalid, message):
    with pytest.raises(tc.InputError) as error:
        resolve(invalid, 64, 2)
    assert str(error.value) == message


def test_schedules_of_users_may_return_arrays_and_are_checked():
    class Half:
        def __init__(self, removed):
            self.result = removed

        def removed(self, stack):
            return self.result

    assert resolve(Half(np.asarray([3, 1])), 64, 2) == (3, 1)
    for wrong in (None, {3, 1}, "31", 3.0):
        with pytest.raises(tc.InputError, match="schedule=.*: must be an integer, a sequence of one integer per block"):
            resolve(Half(wrong), 64, 2)


@pytest.mark.parametrize("depth", [0, -1, 2.5, "12", None])
def test_stage_blocks_require_a_positive_depth(depth):
    with pytest.raises(tc.InputError, match="depth=.*: must be (>= 1|an integer)"):
        schedule.stage_blocks(depth)


@pytest.mark.parametrize("reducer", REDUCERS_BY_NAME)
def test_every_method_can_be_deferred(reducer):
    """Nothing leaves in the first three blocks, and every later number is one that the method can remove."""
    for rate in (0.05, 0.11, 0.4):
        model = condense(DENSE, reducer, schedule.deferred(3, rate))
        assert not any(model.removed[:3])
        assert sum(model.removed[3:]) > 0
        assert condense(DENSE, reducer, list(model.removed)).removed == model.removed
        expected = [max(1, ceil(round(196 * (1 - max(block - 3, 0) * rate), 9))) for block in range(13)]
        tokens = np.asarray(model.cost().tokens)
        if reducer.max_removable(100, 1) == 99 and not isinstance(reducer, tc.CubistMerge):
            fused = reducer.extra_tokens * (np.arange(13) > 3)
            np.testing.assert_array_equal(tokens, np.minimum(expected + fused, 196))
        else:
            assert (tokens >= expected).all()
