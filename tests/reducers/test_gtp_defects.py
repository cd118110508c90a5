"""Defects of the published GTP-ViT code that this implementation does not have, one test for each.

Each docstring describes the defect, observed in commit 97a1178 of the published code. Defects of its scripts (a
hyperparameter search that cannot start, models that cannot be imported, a speed test that does not wait for the device)
have no counterpart here.
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


def test_removing_zero_tokens_keeps_all():
    """The slices `[:-0]` and `[-0:]` keep nothing, also for a zero in a list."""
    model = small(tc.GTP(), [0, 4, 0])
    _, trace = run_traced(model, variables_of(model), images_of(2))
    assert [kept.shape[1] for kept in trace.kept] == [36, 32, 32]


def test_random_selection_without_a_class_token_can_keep_the_last_patch():
    """One score too few is example, so that the last patch is always removed as well."""
    model = small(tc.GTP(score="random", graph="spatial"), 4, **POOLED, depth=2)
    variables = variables_of(model)
    keeps_last_patch = []
    for seed in range(2):
        seeded = small(tc.GTP(score="random", graph="spatial", seed=seed), 4, **POOLED, depth=2)
        _, trace = run_traced(seeded, variables, images_of(1))
        assert [kept.shape[1] for kept in trace.kept] == [32, 28]
        keeps_last_patch.append(35 in np.asarray(trace.kept[0]))
    assert any(keeps_last_patch)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_number_of_neighbors_does_not_depend_on_the_prefix(prefix):
    """Without a class token, each token has one neighbor too many."""
    example = scene(0, prefix)
    graph = tc.GTP(graph="semantic", neighbors=3).build_graph(example.tokens, example.grid)
    assert (np.asarray(graph.adjacency.sum(-1)) == 3).all()


def test_zero_neighbors_are_rejected_or_add_no_edges():
    """The default of 0 divides by a degree of 0: NaN. More neighbors than tokens crash."""
    with pytest.raises(tc.InputError, match="neighbors=0 cannot be combined with graph='semantic': set neighbors >= 1"):
        tc.GTP(graph="semantic", neighbors=0)
    example = scene(1)
    graph = tc.GTP(neighbors=0).build_graph(example.tokens, example.grid)
    np.testing.assert_array_equal(graph.adjacency[0], graphs.spatial_adjacency(example.grid))
    with pytest.raises(tc.InputError, match="neighbors=36: must be between 0 and 35; there are 36 patch tokens"):
        small(tc.GTP(neighbors=36), 4)


@pytest.mark.parametrize("propagation", ["none", "mean"])
@pytest.mark.parametrize("proportional", [True, False])
def test_sizes_are_updated_without_a_graph(propagation, proportional):
    """Without a graph, sizes are not gathered, and the next block fails on their shape."""
    model = small(tc.GTP(propagation=propagation, proportional_attention=proportional), 5, depth=2)
    logits, trace = run_traced(model, variables_of(model), images_of(2))
    assert bool(jnp.isfinite(logits).all())
    assert all(size.shape == kept.shape for size, kept in zip(trace.sizes, trace.kept, strict=True))
    expected = 36 if propagation == "mean" else trace.kept[-1].shape[1]
    np.testing.assert_allclose(trace.sizes[-1].sum(-1), expected, rtol=1e-6)


@pytest.mark.parametrize("skip_lam", [1.0, 2.0])
def test_sparsification_has_an_effect_with_scaled_residuals(skip_lam):
    """In LV-ViT the value is not passed on and has no effect."""
    variables, images = variables_of(small(depth=2)), images_of(2)
    dense = small(tc.GTP(), 4, skip_lam=skip_lam, depth=2)
    sparse = small(tc.GTP(attention_keep=0.5), 4, skip_lam=skip_lam, depth=2)
    assert float(jnp.abs(run(dense, variables, images) - run(sparse, variables, images)).max()) > 1e-3


def test_sparsification_of_a_small_map_keeps_all_entries():
    """With three tokens and 0.9, int(9 * 0.1) = 0, and the selection of the 0-th smallest entry crashes."""
    weights = jax.random.uniform(jax.random.key(0), (1, 1, 3, 3))
    np.testing.assert_array_equal(sparsify(weights, 0.9), weights)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_duplicates_and_half_precision_keep_the_number_of_neighbors(dtype):
    """With ties, a token may not be its own nearest token, whose edge becomes -1, or it has up to twice the neighbors."""
    x = jnp.repeat(jax.random.normal(jax.random.key(0), (2, 5, 6)), 4, axis=1).astype(dtype)
    adjacency = np.asarray(graphs.semantic_adjacency(x, 3))
    assert adjacency.dtype == bool
    assert (adjacency.sum(-1) == 3).all()
    assert not np.diagonal(adjacency, axis1=1, axis2=2).any()


def test_zero_token_gives_no_nan():
    """The norm of an all-zero token is a divisor."""
    example = scene(2)
    plan, out = condense(tc.GTP(), example._replace(tokens=example.tokens.with_x(example.tokens.x.at[:, 3].set(0))), 12)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((plan, out)))


def test_ties_after_sparsification_keep_the_lower_index():
    """Scores of exactly zero, a few percent of all, are sorted by an unstable sort."""
    example = scene(3)
    signals = example.signals
    diagonal = jnp.where(jnp.arange(21) % 2 == 0, 0, signals.diagonal)
    tied = type(signals)(diagonal=diagonal, received=signals.received)
    plan, _ = condense(tc.GTP(), example._replace(signals=tied), 12)
    # Patches 0, 2, ... are rows 1, 3, ...: the ten scores above zero and the first two of zero are kept.
    np.testing.assert_array_equal(plan.removed, [[5, 7, 9, 11, 13, 15, 17, 19]] * 2)


def test_program_does_not_call_the_host():
    """Since June 2026, every block of every forward pass waits for the device and appends to a file."""
    model = small(tc.GTP(), 4, depth=2)
    program = jax.jit(model.apply).lower(variables_of(model), images_of(1)).compile().as_text()
    assert "callback" not in program


def test_removing_too_many_tokens_is_rejected():
    """The model continues with the class token only."""
    with pytest.raises(tc.InputError, match="schedule=12: must be <= 11; "):
        small(tc.GTP(), 12)
