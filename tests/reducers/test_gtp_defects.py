"""Where the published GTP-ViT code is at fault, and ours is not: one test for each known defect.

The defects are those of its commit 97a1178, found by running it. Those of its scripts (a hyper-parameter search that
cannot start, models that cannot be imported, a speed test that does not wait for the device) have no counterpart here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.ops import graph as graphs
from tcvit_jax.ops.attention import sparsify
from tests.models.builders import images_of, run, run_traced, small, variables_of
from tests.reducers.scenes import condense, scene

POOLED = {"class_token": False, "global_pool": "avg"}


def test_no_token_to_remove_keeps_all_and_not_none():
    """Its slices `[:-0]` and `[-0:]` keep nothing, also for a zero within a list."""
    model = small(tc.GTP(), [0, 4, 0])
    _, trace = run_traced(model, variables_of(model), images_of(2))
    assert [kept.shape[1] for kept in trace.kept] == [36, 32, 32]


def test_random_selection_without_a_class_token_drops_no_token_more():
    """It draws one score too few, so that the last patch always leaves as well."""
    model = small(tc.GTP(score="random", graph="spatial"), 4, **POOLED, depth=2)
    variables = variables_of(model)
    last = []
    for seed in range(2):
        again = small(tc.GTP(score="random", graph="spatial", seed=seed), 4, **POOLED, depth=2)
        _, trace = run_traced(again, variables, images_of(1))
        assert [kept.shape[1] for kept in trace.kept] == [32, 28]
        last.append(35 in np.asarray(trace.kept[0]))
    assert any(last)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_neighbours_are_as_many_as_asked_with_any_prefix(prefix):
    """Without a class token it takes one too many."""
    drawn = scene(0, prefix)
    graph = tc.GTP(graph="semantic", neighbors=3).build_graph(drawn.tokens, drawn.grid)
    assert (np.asarray(graph.adjacency.sum(-1)) == 3).all()


def test_no_neighbours_are_refused_or_add_none():
    """Its default of 0 divides by a degree of 0: NaN. More neighbors than tokens crash it."""
    with pytest.raises(tc.InputError, match="neighbors=0 leaves the semantic graph without edges"):
        tc.GTP(graph="semantic", neighbors=0)
    drawn = scene(1)
    mixed = tc.GTP(neighbors=0).build_graph(drawn.tokens, drawn.grid)
    np.testing.assert_array_equal(mixed.adjacency[0], graphs.spatial_adjacency(drawn.grid))
    with pytest.raises(tc.InputError, match="neighbors=36: must be between 0 and 35; there are 36 patch tokens"):
        small(tc.GTP(neighbors=36), 4)


@pytest.mark.parametrize("propagation", ["none", "mean"])
@pytest.mark.parametrize("proportional", [True, False])
def test_sizes_follow_in_every_propagation(propagation, proportional):
    """It forgets to gather them without a graph, and the next block fails on their shape."""
    model = small(tc.GTP(propagation=propagation, proportional_attention=proportional), 5, depth=2)
    logits, trace = run_traced(model, variables_of(model), images_of(2))
    assert bool(jnp.isfinite(logits).all())
    assert all(size.shape == kept.shape for size, kept in zip(trace.sizes, trace.kept, strict=True))
    expected = 36 if propagation == "mean" else trace.kept[-1].shape[1]
    np.testing.assert_allclose(trace.sizes[-1].sum(-1), expected, rtol=1e-6)


@pytest.mark.parametrize("skip_lam", [1.0, 2.0])
def test_sparsification_acts_with_scaled_residuals_too(skip_lam):
    """For LV-ViT it does not pass the value on: no effect."""
    variables, images = variables_of(small(depth=2)), images_of(2)
    dense = small(tc.GTP(), 4, skip_lam=skip_lam, depth=2)
    sparse = small(tc.GTP(attention_keep=0.5), 4, skip_lam=skip_lam, depth=2)
    assert float(jnp.abs(run(dense, variables, images) - run(sparse, variables, images)).max()) > 1e-3


def test_a_map_too_small_to_lose_an_entry_keeps_all():
    """Three tokens at 0.9: int(9 * 0.1) = 0, of which it asks for the 0-th smallest, and crashes."""
    weights = jax.random.uniform(jax.random.key(0), (1, 1, 3, 3))
    np.testing.assert_array_equal(sparsify(weights, 0.9), weights)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_duplicates_and_half_precision_give_no_loop_and_no_more_neighbours(dtype):
    """Ties push a token out of its own nearest, whose edge becomes -1, or give up to twice the neighbors."""
    x = jnp.repeat(jax.random.normal(jax.random.key(0), (2, 5, 6)), 4, axis=1).astype(dtype)
    adjacency = np.asarray(graphs.semantic_adjacency(x, 3))
    assert adjacency.dtype == bool
    assert (adjacency.sum(-1) == 3).all()
    assert not np.diagonal(adjacency, axis1=1, axis2=2).any()


def test_an_empty_token_is_no_nan():
    """It divides by the length of an all-zero token."""
    drawn = scene(2)
    plan, out = condense(tc.GTP(), drawn._replace(tokens=drawn.tokens.with_x(drawn.tokens.x.at[:, 3].set(0))), 12)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((plan, out)))


def test_ties_after_sparsification_keep_the_lower_index():
    """Scores of exactly zero, a few in a hundred, are sorted by an unstable sort."""
    drawn = scene(3)
    signals = drawn.signals
    cut = jnp.where(jnp.arange(21) % 2 == 0, 0, signals.diagonal)
    tied = type(signals)(diagonal=cut, received=signals.received)
    plan, _ = condense(tc.GTP(), drawn._replace(signals=tied), 12)
    # Patches 0, 2, ... are rows 1, 3, ...: ten above zero, and the first two of those at zero.
    np.testing.assert_array_equal(plan.removed, [[5, 7, 9, 11, 13, 15, 17, 19]] * 2)


def test_nothing_is_written_and_no_host_is_called():
    """Since June 2026 it appends to a file in every block of every forward pass, and waits for the device to do so."""
    model = small(tc.GTP(), 4, depth=2)
    program = jax.jit(model.apply).lower(variables_of(model), images_of(1)).compile().as_text()
    assert "callback" not in program


def test_too_many_tokens_are_an_error():
    """It goes on with the class token alone."""
    with pytest.raises(tc.InputError, match="at most 11 per block leave one"):
        small(tc.GTP(), 12)
