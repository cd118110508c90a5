"""Tests of random numbers by row and of pairs of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.ops.rows import Rows, swap_pairs


@pytest.mark.parametrize(
    "draw", [lambda key, rows: rows.bernoulli(key, 0.5), lambda key, rows: jax.vmap(jax.random.normal)(rows.keys(key))]
)
def test_rows_of_a_partial_batch_draw_the_same_numbers_as_in_the_full_batch(draw):
    key = jax.random.key(0)
    full = draw(key, Rows.resolve(None, 12))
    part = draw(key, Rows(jnp.array([9, 3, 4]), 12))
    np.testing.assert_array_equal(part, full[jnp.array([9, 3, 4])])


def test_resolve_without_rows_is_the_full_batch():
    rows = Rows.resolve(None, 3)
    np.testing.assert_array_equal(rows.numbers, [0, 1, 2])
    assert rows.total == 3
    assert Rows.resolve(rows, 3) is rows


def test_wrong_number_of_rows_is_an_error():
    with pytest.raises(ValueError, match="rows: expected 3 row numbers, got 4"):
        Rows.resolve(Rows(jnp.arange(4), 8), 3)


def test_swap_pairs_swaps_adjacent_rows():
    np.testing.assert_array_equal(swap_pairs(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
