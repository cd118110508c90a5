"""GTP-ViT against a reference of its formulas, and invariants of its graph and its propagation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.ops import graph as graphs
from tcvit_jax.ops import plans
from tcvit_jax.reducers.gtp import GRAPHS, SCORES
from tests.reducers import reference
from tests.reducers.scenes import condense, scene


def second_block(reducer, first, out, seed, prefix, keep):
    """Run the block after a plan: the graph is a part of the first one, the attention is random."""
    next_scene = scene(seed, prefix, grid=(1, out.origin.shape[1]))
    tokens = replace(out, state=reducer.prepare(first.tokens, first.grid))
    plan = reducer.plan(tokens, next_scene.signals, keep)
    return next_scene.maps, plan, plans.apply(plan, tokens)


@pytest.mark.parametrize("propagation", ["graph", "mean", "none"])
@pytest.mark.parametrize("kind", GRAPHS)
@settings(max_examples=4)
@given(st.integers(0, 999), st.integers(0, 2), st.sampled_from([1, 8]))
def test_two_blocks_equal_the_reference(kind, propagation, seed, prefix, keep):
    example = scene(seed, prefix)
    reducer = tc.GTP(graph=kind, neighbors=3, alpha=0.3, propagation=propagation)
    plan, out = condense(reducer, example, 12)
    maps2, plan2, out2 = second_block(reducer, example, out, seed + 1, prefix, keep)
    for image in range(2):
        x0, size = (np.asarray(x[image], np.float64) for x in (example.tokens.patches, example.tokens.size))
        shared = {"grid": example.grid, "reducer": reducer, "prefix": prefix}
        first = reference.gtp(x0, x0, size, range(20), example.maps[image], 12, **shared)
        np.testing.assert_array_equal(plan.kept[image], first[0])
        np.testing.assert_array_equal(plan.removed[image], first[1])
        np.testing.assert_allclose(out.patches[image], first[2], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out.size[image], first[3], rtol=1e-5)
        origin = [*first[0], -1]
        second = reference.gtp(x0, first[2], first[3], origin, maps2[image], keep, **shared)
        np.testing.assert_array_equal(plan2.kept[image], second[0])
        np.testing.assert_allclose(out2.patches[image], second[2], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out2.size[image], second[3], rtol=1e-5)
        expected = [origin[row] for row in second[0]] + [-1] * reducer.extra_tokens
        np.testing.assert_array_equal(out2.origin[image], expected)


@pytest.mark.parametrize("name", SCORES)
@settings(max_examples=4)
@given(st.integers(0, 999), st.integers(1, 2))
def test_scores_equal_the_reference(name, seed, prefix):
    example = scene(seed, prefix)
    plan, _ = condense(tc.GTP(score=name), example, 12)
    for image in range(2):
        expected = reference.split(reference.gtp_score(example.maps[image], name, prefix), 12)
        np.testing.assert_array_equal(plan.kept[image], expected[0])


def test_scores_do_not_depend_on_the_order_of_heads():
    example = scene(1)
    reversed_heads = jax.tree.map(
        lambda leaf: leaf[:, ::-1] if leaf.ndim == 3 and leaf.shape[1] == 3 else leaf, example.signals
    )
    for name in SCORES:
        if not name.startswith("cosine"):  # these maps are already reduced over heads
            plans_ = [
                condense(tc.GTP(score=name), example._replace(signals=s), 12)[0]
                for s in (example.signals, reversed_heads)
            ]
            np.testing.assert_array_equal(plans_[0].kept, plans_[1].kept)


def test_class_attention_averages_class_and_distillation_token():
    example = scene(2, prefix=2, class_tokens=2)
    plan, _ = condense(tc.GTP(score="cls_max"), example, 12)
    for image in range(2):
        score = example.maps[image][:, :2].mean(1).max(0)[2:]
        np.testing.assert_array_equal(plan.kept[image], reference.split(score, 12)[0])


def test_random_score_depends_on_seed_and_length_but_not_on_the_image():
    kept = {
        (seed, prefix): np.asarray(condense(tc.GTP(score="random", seed=seed), scene(prefix, prefix), 12)[0].kept)
        for seed in (0, 1)
        for prefix in (0, 1)
    }
    np.testing.assert_array_equal(kept[0, 0][0], kept[0, 0][1])
    np.testing.assert_array_equal(kept[0, 0], kept[0, 1])
    assert (kept[0, 0] != kept[1, 0]).any()
    # Every patch is kept for some seed.
    draws = [condense(tc.GTP(score="random", seed=seed), scene(0), 12)[0].kept[0] for seed in range(20)]
    assert set(np.concatenate(draws).tolist()) == set(range(20))


def test_zero_alpha_is_bit_identical_to_pruning():
    example = scene(0)
    plan, out = condense(tc.GTP(alpha=0.0), example, 12)
    _, pruned = condense(tc.GTP(propagation="none"), example, 12)
    for actual, expected in ((out.x, pruned.x), (out.size, pruned.size), (out.slots, pruned.slots)):
        np.testing.assert_array_equal(actual, expected)
    assert (np.asarray(plan.target) == -1).all()


def test_propagation_is_affine_in_alpha():
    example = scene(1)
    x = {alpha: np.asarray(condense(tc.GTP(alpha=alpha), example, 12)[1].x) for alpha in (0.0, 0.4, 1.0)}
    np.testing.assert_allclose(x[0.4], x[0.0] + 0.4 * (x[1.0] - x[0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", GRAPHS)
def test_graph_has_the_degrees_of_its_kind(kind):
    example = scene(3)
    graph = tc.GTP(graph=kind, neighbors=3).build_graph(example.tokens, example.grid)
    spatial = graphs.spatial_adjacency(example.grid).sum(-1)
    degree = np.asarray(graph.adjacency.sum(-1))
    lower = {"spatial": spatial, "semantic": 3, "mixed": np.maximum(spatial, 3)}[kind]
    upper = {"spatial": spatial, "semantic": 3, "mixed": spatial + 3}[kind]
    assert (degree >= lower).all()
    assert (degree <= upper).all()
    assert not np.diagonal(graph.adjacency, axis1=1, axis2=2).any()
    # sqrt(deg) is an eigenvector of every normalized graph: A^ sqrt(deg) = sqrt(deg).
    all_rows = jnp.broadcast_to(jnp.arange(20), (2, 20))
    dense = np.asarray(graphs.normalized_block(graph.adjacency, graph.root, all_rows, all_rows))
    np.testing.assert_allclose(np.einsum("bij,bj->bi", dense, np.sqrt(degree)), np.sqrt(degree), rtol=2e-6)


def test_later_blocks_read_a_submatrix_of_the_first_graph():
    example = scene(4)
    reducer = tc.GTP(neighbors=3, alpha=1.0)
    plan, out = condense(reducer, example, 12)
    _, plan2, _ = second_block(reducer, example, out, 5, 1, 8)
    graph = reducer.build_graph(example.tokens, example.grid)
    all_rows = jnp.broadcast_to(jnp.arange(20), (2, 20))
    dense = np.asarray(graphs.normalized_block(graph.adjacency, graph.root, all_rows, all_rows))
    for image in range(2):
        kept = np.asarray(plan.kept[image])
        rows, columns = kept[np.asarray(plan2.kept[image])], kept[np.asarray(plan2.removed[image])]
        np.testing.assert_array_equal(plan2.weight[image], dense[image][np.ix_(rows, columns)])


def test_sizes_are_propagated_like_features():
    """The sizes of survivors are those of kept tokens plus `alpha` times the column sums of the graph times sizes."""
    example = scene(6)
    plan, out = condense(tc.GTP(alpha=0.2), example, 12)
    size = np.asarray(example.tokens.size)
    kept = np.take_along_axis(size, np.asarray(plan.kept), 1).sum(-1)
    passed = np.take_along_axis(size, np.asarray(plan.removed), 1) * np.asarray(plan.weight).sum(1)
    np.testing.assert_allclose(out.size.sum(-1), kept + passed.sum(-1), rtol=1e-6)
    assert (np.asarray(out.size) >= np.take_along_axis(size, np.asarray(plan.kept), 1)).all()


def test_removed_token_without_kept_neighbors_is_lost():
    example = scene(2)
    plan, out = condense(tc.GTP(graph="spatial", alpha=0.5), example, 1)
    lost = np.flatnonzero(np.asarray(plan.target[0]) == -1)
    assert len(lost) >= 11  # a kept token has at most eight neighbors
    x = example.tokens.x.at[0, 1 + plan.removed[0, lost[0]]].add(100.0)
    changed = plans.apply(plan, example.tokens.with_x(x))
    np.testing.assert_array_equal(changed.x[0], out.x[0])
    assert int(out.slots[0, plan.removed[0, lost[0]]]) == -1


@pytest.mark.parametrize("propagation", ["graph", "mean", "none"])
def test_result_does_not_depend_on_the_order_of_patches(propagation):
    """Patches are permuted together with their graph, sizes and attention; the survivors are the same set."""
    example = scene(7)
    reducer = tc.GTP(neighbors=3, propagation=propagation)
    order = np.random.default_rng(0).permutation(20)
    token_order = np.concatenate([[0], 1 + order])
    score_state, graph = reducer.prepare(example.tokens, example.grid)
    if graph is not None:
        graph = type(graph)(graph.adjacency[:, order][:, :, order], graph.root[:, order])
    x, size = example.tokens.x[:, token_order], example.tokens.size[:, order]
    shuffled = replace(example.tokens, x=x, size=size, state=(score_state, graph))
    signals = replace(
        example.signals,
        diagonal=example.signals.diagonal[..., token_order],
        received=example.signals.received[..., token_order],
    )
    _, out = condense(reducer, example, 12)
    plan = reducer.plan(shuffled, signals, 12)
    out2 = plans.apply(plan, shuffled)
    for image in range(2):
        inverse = np.argsort(order[np.asarray(plan.kept[image])])
        actual = np.asarray(out2.patches[image])
        actual = np.concatenate([actual[:12][inverse], actual[12:]])
        np.testing.assert_allclose(actual, out.patches[image], rtol=1e-5, atol=1e-6)


def test_too_many_neighbors_are_rejected():
    with pytest.raises(tc.InputError, match="neighbors=20: must be between 0 and 19; there are 20 patch tokens"):
        condense(tc.GTP(neighbors=20), scene(0), 12)
