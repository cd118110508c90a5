"""GTP-ViT against its formulas, and the invariants of its graph and its propagation."""

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
    """The next block over what a plan left: its graph is a part of the first one, its attention drawn anew."""
    again = scene(seed, prefix, grid=(1, out.origin.shape[1]))
    tokens = replace(out, state=reducer.prepare(first.tokens, first.grid))
    plan = reducer.plan(tokens, again.signals, keep)
    return again.maps, plan, plans.apply(plan, tokens)


@pytest.mark.parametrize("propagation", ["graph", "mean", "none"])
@pytest.mark.parametrize("kind", GRAPHS)
@settings(max_examples=4)
@given(st.integers(0, 999), st.integers(0, 2), st.sampled_from([1, 8]))
def test_two_blocks_equal_the_reference(kind, propagation, seed, prefix, keep):
    drawn = scene(seed, prefix)
    reducer = tc.GTP(graph=kind, neighbors=3, alpha=0.3, propagation=propagation)
    plan, out = condense(reducer, drawn, 12)
    maps2, plan2, out2 = second_block(reducer, drawn, out, seed + 1, prefix, keep)
    for image in range(2):
        x0, size = (np.asarray(x[image], np.float64) for x in (drawn.tokens.patches, drawn.tokens.size))
        shared = {"grid": drawn.grid, "reducer": reducer, "prefix": prefix}
        first = reference.gtp(x0, x0, size, range(20), drawn.maps[image], 12, **shared)
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
def test_scores_read_the_map_as_they_say(name, seed, prefix):
    drawn = scene(seed, prefix)
    plan, _ = condense(tc.GTP(score=name), drawn, 12)
    for image in range(2):
        expected = reference.split(reference.gtp_score(drawn.maps[image], name, prefix), 12)
        np.testing.assert_array_equal(plan.kept[image], expected[0])


def test_scores_do_not_know_the_order_of_heads():
    drawn = scene(1)
    back = jax.tree.map(lambda leaf: leaf[:, ::-1] if leaf.ndim == 3 and leaf.shape[1] == 3 else leaf, drawn.signals)
    for name in SCORES:
        if not name.startswith("cosine"):  # their maps are reduced over heads already
            plans_ = [condense(tc.GTP(score=name), drawn._replace(signals=s), 12)[0] for s in (drawn.signals, back)]
            np.testing.assert_array_equal(plans_[0].kept, plans_[1].kept)


def test_a_distillation_token_is_averaged_with_the_class_token_and_asked_like_any_query():
    drawn = scene(2, prefix=2, class_tokens=2)
    plan, _ = condense(tc.GTP(score="cls_max"), drawn, 12)
    for image in range(2):
        score = drawn.maps[image][:, :2].mean(1).max(0)[2:]
        np.testing.assert_array_equal(plan.kept[image], reference.split(score, 12)[0])


def test_the_random_score_differs_by_seed_and_by_length_and_not_by_image():
    kept = {
        (seed, prefix): np.asarray(condense(tc.GTP(score="random", seed=seed), scene(prefix, prefix), 12)[0].kept)
        for seed in (0, 1)
        for prefix in (0, 1)
    }
    np.testing.assert_array_equal(kept[0, 0][0], kept[0, 0][1])
    np.testing.assert_array_equal(kept[0, 0], kept[0, 1])
    assert (kept[0, 0] != kept[1, 0]).any()
    # Every patch leaves now and then.
    draws = [condense(tc.GTP(score="random", seed=seed), scene(0), 12)[0].kept[0] for seed in range(20)]
    assert set(np.concatenate(draws).tolist()) == set(range(20))


def test_without_alpha_it_is_pruning_bit_for_bit():
    drawn = scene(0)
    plan, out = condense(tc.GTP(alpha=0.0), drawn, 12)
    _, pruned = condense(tc.GTP(propagation="none"), drawn, 12)
    for one, other in ((out.x, pruned.x), (out.size, pruned.size), (out.slots, pruned.slots)):
        np.testing.assert_array_equal(one, other)
    assert (np.asarray(plan.target) == -1).all()


def test_propagation_is_affine_in_alpha():
    drawn = scene(1)
    at = {alpha: np.asarray(condense(tc.GTP(alpha=alpha), drawn, 12)[1].x) for alpha in (0.0, 0.4, 1.0)}
    np.testing.assert_allclose(at[0.4], at[0.0] + 0.4 * (at[1.0] - at[0.0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", GRAPHS)
def test_the_graph_has_the_degrees_of_its_kind(kind):
    drawn = scene(3)
    graph = tc.GTP(graph=kind, neighbors=3).build_graph(drawn.tokens, drawn.grid)
    spatial = graphs.spatial_adjacency(drawn.grid).sum(-1)
    degree = np.asarray(graph.adjacency.sum(-1))
    least = {"spatial": spatial, "semantic": 3, "mixed": np.maximum(spatial, 3)}[kind]
    most = {"spatial": spatial, "semantic": 3, "mixed": spatial + 3}[kind]
    assert (degree >= least).all()
    assert (degree <= most).all()
    assert not np.diagonal(graph.adjacency, axis1=1, axis2=2).any()
    # An eigenvector of every normalized graph, symmetric or not: A^ sqrt(deg) = sqrt(deg).
    every = jnp.broadcast_to(jnp.arange(20), (2, 20))
    dense = np.asarray(graphs.normalized_block(graph.adjacency, graph.root, every, every))
    np.testing.assert_allclose(np.einsum("bij,bj->bi", dense, np.sqrt(degree)), np.sqrt(degree), rtol=2e-6)


def test_later_blocks_read_a_part_of_the_first_graph():
    drawn = scene(4)
    reducer = tc.GTP(neighbors=3, alpha=1.0)
    plan, out = condense(reducer, drawn, 12)
    _, plan2, _ = second_block(reducer, drawn, out, 5, 1, 8)
    graph = reducer.build_graph(drawn.tokens, drawn.grid)
    every = jnp.broadcast_to(jnp.arange(20), (2, 20))
    dense = np.asarray(graphs.normalized_block(graph.adjacency, graph.root, every, every))
    for image in range(2):
        kept = np.asarray(plan.kept[image])
        rows, columns = kept[np.asarray(plan2.kept[image])], kept[np.asarray(plan2.removed[image])]
        np.testing.assert_array_equal(plan2.weight[image], dense[image][np.ix_(rows, columns)])


def test_sizes_balance():
    """The survivors' sizes are the kept ones' and alpha times what the columns of the graph pass on."""
    drawn = scene(6)
    plan, out = condense(tc.GTP(alpha=0.2), drawn, 12)
    size = np.asarray(drawn.tokens.size)
    kept = np.take_along_axis(size, np.asarray(plan.kept), 1).sum(-1)
    passed = np.take_along_axis(size, np.asarray(plan.removed), 1) * np.asarray(plan.weight).sum(1)
    np.testing.assert_allclose(out.size.sum(-1), kept + passed.sum(-1), rtol=1e-6)
    assert (np.asarray(out.size) >= np.take_along_axis(size, np.asarray(plan.kept), 1)).all()


def test_a_token_without_kept_neighbours_is_lost_and_changes_nothing():
    drawn = scene(2)
    plan, out = condense(tc.GTP(graph="spatial", alpha=0.5), drawn, 1)
    lonely = np.flatnonzero(np.asarray(plan.target[0]) == -1)
    assert len(lonely) >= 11  # a kept token has at most eight neighbors
    x = drawn.tokens.x.at[0, 1 + plan.removed[0, lonely[0]]].add(100.0)
    changed = plans.apply(plan, drawn.tokens.with_x(x))
    np.testing.assert_array_equal(changed.x[0], out.x[0])
    assert int(out.slots[0, plan.removed[0, lonely[0]]]) == -1


@pytest.mark.parametrize("propagation", ["graph", "mean", "none"])
def test_patches_may_come_in_any_order(propagation):
    """Permuted with their graph, their sizes and their attention; what survives is the same set."""
    drawn = scene(7)
    reducer = tc.GTP(neighbors=3, propagation=propagation)
    order = np.random.default_rng(0).permutation(20)
    whole = np.concatenate([[0], 1 + order])
    of_score, graph = reducer.prepare(drawn.tokens, drawn.grid)
    if graph is not None:
        graph = type(graph)(graph.adjacency[:, order][:, :, order], graph.root[:, order])
    x, size = drawn.tokens.x[:, whole], drawn.tokens.size[:, order]
    shuffled = replace(drawn.tokens, x=x, size=size, state=(of_score, graph))
    signals = replace(
        drawn.signals, diagonal=drawn.signals.diagonal[..., whole], received=drawn.signals.received[..., whole]
    )
    _, out = condense(reducer, drawn, 12)
    plan = reducer.plan(shuffled, signals, 12)
    out2 = plans.apply(plan, shuffled)
    for image in range(2):
        back = np.argsort(order[np.asarray(plan.kept[image])])
        again = np.asarray(out2.patches[image])
        again = np.concatenate([again[:12][back], again[12:]])
        np.testing.assert_allclose(again, out.patches[image], rtol=1e-5, atol=1e-6)


def test_too_many_neighbours_name_the_number():
    with pytest.raises(tc.InputError, match="neighbors=20: must be between 0 and 19; there are 20 patch tokens"):
        condense(tc.GTP(neighbors=20), scene(0), 12)
