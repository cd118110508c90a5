"""Likeness, distance and the first_half of a bipartite matching, against their definitions."""

import jax.numpy as jnp
import numpy as np

from tcvit_jax.ops import matching


def rows(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_cosine_and_distance_are_those_of_every_pair():
    a, b = rows(0, 2, 5, 6), rows(1, 2, 4, 6)
    x, y = np.asarray(a, np.float64)[:, :, None], np.asarray(b, np.float64)[:, None]
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    np.testing.assert_allclose(matching.cosine(a, b), cosine, atol=1e-6)
    np.testing.assert_allclose(matching.distance(a, b), np.linalg.norm(x - y, axis=-1), rtol=1e-5)


def test_a_row_of_zeros_is_like_nothing_and_no_nan():
    a = jnp.zeros((1, 2, 6)).at[0, 1].set(1)
    np.testing.assert_array_equal(matching.unit(a)[0, 0], 0)
    np.testing.assert_allclose(matching.cosine(a, a)[0], [[0, 0], [0, 1]], atol=1e-6)


def test_half_precision_is_compared_in_float32():
    a = jnp.asarray(rows(2, 1, 5, 6), jnp.bfloat16)
    assert matching.cosine(a, a).dtype == matching.distances(a).dtype == jnp.float32
    np.testing.assert_array_equal(matching.cosine(a, a), matching.cosine(a.astype("float32"), a.astype("float32")))


def test_distances_within_a_set_are_symmetric_to_the_bit_and_zero_to_oneself():
    x = 30 + rows(3, 2, 40, 24)
    found = np.asarray(matching.distances(x))
    np.testing.assert_array_equal(found, found.transpose(0, 2, 1))
    np.testing.assert_array_equal(np.diagonal(found, axis1=1, axis2=2), 0)
    np.testing.assert_allclose(found, jnp.linalg.norm(x[:, :, None] - x[:, None], axis=-1), rtol=1e-3)


def test_the_first_of_all_tokens_begins_the_first_half():
    position = jnp.asarray([[0, 1, 2, 3], [3, 0, 2, 1]])
    np.testing.assert_array_equal(matching.first_half(position, 0), [[1, 0, 1, 0], [0, 1, 1, 0]])
    np.testing.assert_array_equal(matching.first_half(position, 1), [[0, 1, 0, 1], [1, 0, 0, 1]])


def test_a_bipartite_score_lets_the_most_alike_of_the_first_half_go_first():
    similarity = jnp.asarray([[[1, 0.9, 0.2, 0.1], [0.9, 1, 0.3, 0.4], [0.2, 0.3, 1, 0], [0.1, 0.4, 0, 1]]])
    first, second = jnp.asarray([[True, False, True, False]]), jnp.asarray([[False, True, False, False]])
    score = np.asarray(matching.bipartite_score(similarity, first, second))
    np.testing.assert_allclose(score, [[-0.9, np.inf, -0.3, 2]], rtol=1e-6)
