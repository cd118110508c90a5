"""What a row draws is its own, wherever it lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tcvit_jax.ops import rows


@pytest.mark.parametrize(
    "draw", [lambda key, n: rows.bernoulli(key, 0.5, n), lambda key, n: jax.vmap(jax.random.normal)(rows.keys(key, n))]
)
def test_a_part_of_a_batch_draws_what_it_draws_in_the_whole(draw):
    key = jax.random.key(0)
    whole = draw(key, 12)
    with rows.numbered(jnp.array([9, 3, 4]), 12):
        part = draw(key, 3)
    np.testing.assert_array_equal(part, whole[jnp.array([9, 3, 4])])
    # Outside of it, a batch is the whole of itself again.
    np.testing.assert_array_equal(draw(key, 12), whole)


def test_rows_that_are_not_the_numbered_ones_are_refused():
    with rows.numbered(jnp.arange(4), 8), pytest.raises(ValueError, match="3 rows, where 4 are numbered"):
        rows.bernoulli(jax.random.key(0), 0.5, 3)


def test_neighbours_change_places():
    np.testing.assert_array_equal(rows.neighbour(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
