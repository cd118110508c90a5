"""The split by score against NumPy's stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tcvit_jax.ops.ranking import split_by_score

# Few values, so that ties are the rule.
SCORES = hnp.arrays(np.float32, (2, 11), elements=st.sampled_from([-1.0, 0.0, 0.25, 3.0]))


@settings(max_examples=40)
@given(SCORES, st.integers(1, 10))
def test_equals_a_stable_descending_sort(score, keep):
    kept, removed = split_by_score(jnp.asarray(score), keep)
    order = np.argsort(-score, axis=-1, kind="stable")
    np.testing.assert_array_equal(kept, np.sort(order[:, :keep], axis=-1))
    np.testing.assert_array_equal(removed, np.sort(order[:, keep:], axis=-1))


def test_scores_are_ranked_in_float32():
    # In bfloat16 these three are one value; given in float32 they must not be rounded to it.
    score = jnp.asarray([[1.0, 1.0001, 1.0002]], jnp.float32)
    kept, _ = split_by_score(score, 1)
    np.testing.assert_array_equal(kept, [[2]])
    kept, _ = jax.jit(split_by_score, static_argnums=1)(score.astype(jnp.bfloat16), 1)
    np.testing.assert_array_equal(kept, [[0]])
