"""Tests of similarity, distance and bipartite matching against their definitions."""

import jax.numpy as jnp
import numpy as np

from tcvit_jax.ops import matching


def random_rows(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_cosine_and_distance_match_their_definitions():
    a, b = random_rows(0, 2, 5, 6), random_rows(1, 2, 4, 6)
    x, y = np.asarray(a, np.float64)[:, :, None], np.asarray(b, np.float64)[:, None]
    cosine = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
    np.testing.assert_allclose(matching.cosine(a, b), cosine, atol=1e-6)
    np.testing.assert_allclose(matching.distance(a, b), np.linalg.norm(x - y, axis=-1), rtol=1e-5)


def test_zero_row_has_cosine_zero_and_no_nan():
    a = jnp.zeros((1, 2, 6)).at[0, 1].set(1)
    np.testing.assert_array_equal(matching.normalize_rows(a)[0, 0], 0)
    np.testing.assert_allclose(matching.cosine(a, a)[0], [[0, 0], [0, 1]], atol=1e-6)


def test_bfloat16_rows_are_compared_in_float32():
    a = jnp.asarray(random_rows(2, 1, 5, 6), jnp.bfloat16)
    assert matching.cosine(a, a).dtype == matching.pairwise_distances(a).dtype == jnp.float32
    np.testing.assert_array_equal(matching.cosine(a, a), matching.cosine(a.astype("float32"), a.astype("float32")))


def test_pairwise_distances_are_exactly_symmetric_with_zero_diagonal():
    x = 30 + random_rows(3, 2, 40, 24)
    distance = np.asarray(matching.pairwise_distances(x))
    np.testing.assert_array_equal(distance, distance.transpose(0, 2, 1))
    np.testing.assert_array_equal(np.diagonal(distance, axis1=1, axis2=2), 0)
    np.testing.assert_allclose(distance, jnp.linalg.norm(x[:, :, None] - x[:, None], axis=-1), rtol=1e-3)


def test_first_half_starts_with_the_first_token_of_the_prefix():
    position = jnp.asarray([[0, 1, 2, 3], [3, 0, 2, 1]])
    np.testing.assert_array_equal(matching.first_half(position, 0), [[1, 0, 1, 0], [0, 1, 1, 0]])
    np.testing.assert_array_equal(matching.first_half(position, 1), [[0, 1, 0, 1], [1, 0, 0, 1]])


def test_bipartite_score_is_lowest_for_the_most_similar_tokens():
    similarity = jnp.asarray([[[1, 0.9, 0.2, 0.1], [0.9, 1, 0.3, 0.4], [0.2, 0.3, 1, 0], [0.1, 0.4, 0, 1]]])
    first, second = jnp.asarray([[True, False, True, False]]), jnp.asarray([[False, True, False, False]])
    score = np.asarray(matching.bipartite_score(similarity, first, second))
    np.testing.assert_allclose(score, [[-0.9, np.inf, -0.3, 2]], rtol=1e-6)
