"""What a row draws is its own, wherever it lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.ops.rows import Rows, swap_pairs


@pytest.mark.parametrize(
    "draw", [lambda key, rows: rows.bernoulli(key, 0.5), lambda key, rows: jax.vmap(jax.random.normal)(rows.keys(key))]
)
def test_a_part_of_a_batch_draws_what_it_draws_in_the_whole(draw):
    key = jax.random.key(0)
    whole = draw(key, Rows.resolve(None, 12))
    part = draw(key, Rows(jnp.array([9, 3, 4]), 12))
    np.testing.assert_array_equal(part, whole[jnp.array([9, 3, 4])])


def test_without_rows_a_batch_is_the_whole_of_itself():
    found = Rows.resolve(None, 3)
    np.testing.assert_array_equal(found.numbers, [0, 1, 2])
    assert found.total == 3
    assert Rows.resolve(found, 3) is found


def test_rows_that_are_not_the_numbered_ones_are_refused():
    with pytest.raises(ValueError, match="3 rows, where 4 are numbered"):
        Rows.resolve(Rows(jnp.arange(4), 8), 3)


def test_partners_change_places():
    np.testing.assert_array_equal(swap_pairs(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
