"""Tests of rankings against plain sorts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tcvit_jax.ops import ranking
from tcvit_jax.ops.ranking import midranks

# Compile once for all examples of a shape.
split_by_score = jax.jit(ranking.split_by_score, static_argnames="keep")
largest_mask = jax.jit(ranking.largest_mask, static_argnames=("count", "axis"))
ranks, kth_smallest = jax.jit(ranking.ranks), jax.jit(ranking.kth_smallest)

# There are few different values, so that most entries are tied.
ROWS = hnp.arrays(np.float32, (2, 9), elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]))


@given(ROWS, st.sampled_from([1, 2, 5, 9]))
def test_split_is_a_stable_descending_sort(score, keep):
    kept, removed = split_by_score(jnp.asarray(score), keep)
    for image in range(2):
        order = sorted(range(9), key=lambda i: (-score[image, i], i))
        np.testing.assert_array_equal(kept[image], sorted(order[:keep]))
        np.testing.assert_array_equal(removed[image], sorted(order[keep:]))


def test_scores_are_ranked_in_float32():
    # These scores are equal in bfloat16, so float32 scores must not be rounded to it.
    score = jnp.asarray([[1.0, 1.0001, 1.0002]], jnp.float32)
    kept, _ = split_by_score(score, 1)
    np.testing.assert_array_equal(kept, [[2]])
    kept, _ = split_by_score(score.astype(jnp.bfloat16), 1)
    np.testing.assert_array_equal(kept, [[0]])


@jax.jit
def split_standardized(x):
    total = jax.nn.softmax(x @ x.swapaxes(1, 2)).sum(1)
    return ranking.split_by_score((total - total.mean(-1, keepdims=True)) / total.std(-1, keepdims=True), 27)


@pytest.mark.parametrize("seed", range(20))
def test_split_is_a_partition_despite_rounding(seed):
    """Scores of identical tokens differ by rounding only, which a compiler may repeat for each comparison."""
    distinct = np.random.default_rng(seed).standard_normal((2, 3, 8))
    kept, removed = split_standardized(jnp.asarray(np.repeat(distinct, 12, axis=1), jnp.float32))
    assert (np.diff(kept) > 0).all() and (np.diff(removed) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, removed], axis=1)), [range(36)] * 2)


def test_nan_score_ranks_lowest():
    score = jnp.asarray([[0.5, jnp.nan, -3.0, jnp.nan]])
    kept, removed = split_by_score(score, 2)
    np.testing.assert_array_equal(kept, [[0, 2]])
    np.testing.assert_array_equal(removed, [[1, 3]])


@given(ROWS, st.sampled_from([0, 1, 4, 9]))
def test_largest_mask_equals_a_stable_sort(rows, count):
    mask = np.asarray(largest_mask(jnp.asarray(rows), count))
    np.testing.assert_array_equal(largest_mask(jnp.asarray(rows.T), count, axis=-2), mask.T)
    for image in range(2):
        order = sorted(range(9), key=lambda i: (-rows[image, i], i))
        np.testing.assert_array_equal(np.flatnonzero(mask[image]), sorted(order[:count]))


@settings(max_examples=30)
@given(hnp.arrays(np.float32, (2, 50), elements=st.floats(0, 2, width=32)), st.integers(1, 50))
def test_kth_smallest_is_exact_for_subnormal_numbers(rows, rank):
    np.testing.assert_array_equal(kth_smallest(jnp.asarray(rows), rank), np.sort(rows, axis=-1)[:, rank - 1])


def test_midranks_of_tied_entries_are_their_mean_rank():
    score = jnp.asarray([[0.3, 0.1, 0.3, 0.9], [1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(midranks(score), [[1.5, 0, 1.5, 3], [1.5] * 4])


@given(ROWS)
def test_ranks_equal_a_stable_descending_sort(score):
    order = np.argsort(-score, axis=-1, kind="stable")
    actual = np.take_along_axis(np.asarray(ranks(jnp.asarray(score))), order, axis=1)
    np.testing.assert_array_equal(actual, [range(9)] * 2)
