"""Array annotations of the package are enforced in tests."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from tcvit_jax.ops import plans, ranking

KEPT, REMOVED = jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 1), jnp.int32)


def test_wrong_shape_is_an_error():
    assert plans.drop(KEPT, REMOVED).survivors == 3
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'removed'"):
        plans.drop(KEPT, REMOVED[:1])


def test_wrong_dtype_is_an_error():
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'score'"):
        ranking.ranks(KEPT)


def test_pytrees_may_have_leaves_that_are_not_arrays():
    plan = plans.drop(KEPT, REMOVED)
    assert jax.tree.map(lambda leaf: leaf.shape, plan).kept == (2, 3)
