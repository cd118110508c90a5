"""Tests of graphs against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.ops import graph

semantic_adjacency = jax.jit(graph.semantic_adjacency, static_argnames="neighbors")
normalized_block = jax.jit(graph.normalized_block)


@given(st.integers(1, 6), st.integers(1, 6))
def test_spatial_neighbors_are_the_eight_adjacent_patches(height, width):
    adjacency = graph.spatial_adjacency((height, width))
    for a in range(height * width):
        for b in range(height * width):
            rows, columns = abs(a // width - b // width), abs(a % width - b % width)
            assert adjacency[a, b] == (max(rows, columns) == 1)


def test_spatial_degrees_of_a_14_by_14_grid():
    degrees, counts = np.unique(graph.spatial_adjacency((14, 14)).sum(-1), return_counts=True)
    assert dict(zip(degrees, counts, strict=True)) == {3: 4, 5: 48, 8: 144}


@settings(max_examples=15)
@given(st.integers(0, 999), st.sampled_from([0, 1, 4, 8]))
def test_semantic_neighbors_are_the_nearest_by_cosine(seed, neighbors):
    x = np.random.default_rng(seed).standard_normal((2, 9, 5))
    adjacency = np.asarray(semantic_adjacency(jnp.asarray(x, jnp.float32), neighbors))
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    for image in range(2):
        for i in range(9):
            others = sorted((j for j in range(9) if j != i), key=lambda j: -(unit[image, i] @ unit[image, j]))
            assert set(np.flatnonzero(adjacency[image, i])) == set(others[:neighbors])


def test_tied_and_zero_tokens_have_exact_degrees_and_no_self_loops():
    x = jnp.concatenate([jnp.ones((1, 4, 3)), jnp.zeros((1, 2, 3))], axis=1)
    adjacency = np.asarray(graph.semantic_adjacency(x, 3))[0]
    assert (adjacency.sum(-1) == 3).all()
    assert not adjacency.diagonal().any()
    # Ties go to the lower index.
    np.testing.assert_array_equal(np.flatnonzero(adjacency[0]), [1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(adjacency[5]), [0, 1, 2])


@pytest.mark.parametrize("neighbors", [-1, 6, 40])
def test_number_of_neighbors_out_of_range_is_an_error(neighbors):
    with pytest.raises(
        tc.InputError, match=f"neighbors={neighbors}: must be between 0 and 5; there are 6 patch tokens"
    ):
        graph.semantic_adjacency(jnp.ones((1, 6, 3)), neighbors)


@settings(max_examples=15)
@given(st.integers(0, 999))
def test_normalized_block_equals_the_dense_normalization(seed):
    rng = np.random.default_rng(seed)
    adjacency = rng.random((2, 7, 7)) < 0.4
    adjacency[:, 3] = False  # A token without neighbors.
    root = graph.inverse_root_degree(jnp.asarray(adjacency))
    rows, columns = rng.integers(0, 7, (2, 4)), rng.integers(0, 7, (2, 3))
    block = normalized_block(adjacency, root, rows, columns)
    for image in range(2):
        degree = np.maximum(adjacency[image].sum(-1), 1)
        dense = np.diag(degree**-0.5) @ adjacency[image] @ np.diag(degree**-0.5)
        np.testing.assert_allclose(block[image], dense[np.ix_(rows[image], columns[image])], atol=1e-7)


def test_normalized_adjacency_has_the_root_degrees_as_eigenvector():
    adjacency = jnp.asarray(graph.spatial_adjacency((5, 4)))[None]
    root = graph.inverse_root_degree(adjacency)
    index = jnp.arange(20)[None]
    dense = np.asarray(normalized_block(adjacency, root, index, index))[0]
    root_degree = np.sqrt(np.asarray(adjacency)[0].sum(-1))
    np.testing.assert_allclose(dense @ root_degree, root_degree, rtol=2e-6)
    np.testing.assert_array_equal(dense, dense.T)
