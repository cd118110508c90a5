"""GTP-ViT against its formulas, and the invariants of its propagation."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.ops import plans
from tests.reducers import reference
from tests.reducers.test_reducers import GRID, condense, scene


def maps_of(seed, prefix, patches=20):
    """The attention that `scene` computes its signals from, in float64, `[B, H, T, T]`."""
    rng = np.random.default_rng(seed)
    rng.standard_normal((2, prefix + patches, 6))
    q, k = ((1.5 * rng.standard_normal((2, 3, prefix + patches, 4))).astype(np.float32) for _ in range(2))
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) / 2
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@settings(max_examples=15)
@given(
    st.integers(0, 999), st.integers(0, 2), st.sampled_from([1, 11, 17]), st.sampled_from(["spatial", "semantic", "mixed"])
)  # fmt: skip
def test_two_blocks_equal_the_reference(seed, prefix, keep, kind):
    tokens, signals = scene(seed, prefix)
    reducer = tc.GTP(graph=kind, neighbors=3, alpha=0.3)
    plan, out = condense(reducer, tokens, signals, 18)
    # The second block reads a sub-matrix of the first graph; its attention is drawn anew.
    _, signals2 = scene(seed + 1, prefix, patches=18)
    plan2 = reducer.plan(replace(out, state=reducer.prepare(tokens, GRID)), signals2, keep)
    out2 = plans.apply(plan2, out)
    for image in range(2):
        x0 = np.asarray(tokens.patches[image], np.float64)
        size = np.asarray(tokens.size[image], np.float64)
        shared = {"grid": GRID, "neighbors": 3, "alpha": 0.3, "kind": kind, "prefix": prefix}
        first = reference.gtp(x0, x0, size, range(20), maps_of(seed, prefix)[image], 18, **shared)
        np.testing.assert_array_equal(plan.kept[image], first[0])
        np.testing.assert_array_equal(plan.removed[image], first[1])
        np.testing.assert_allclose(out.patches[image], first[2], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out.size[image], first[3], rtol=1e-5)
        maps = maps_of(seed + 1, prefix, 18)[image]
        second = reference.gtp(x0, first[2], first[3], first[0], maps, keep, **shared)
        np.testing.assert_array_equal(plan2.kept[image], second[0])
        np.testing.assert_allclose(out2.patches[image], second[2], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out2.size[image], second[3], rtol=1e-5)


def test_without_alpha_it_is_pruning():
    tokens, signals = scene(0)
    plan, out = condense(tc.GTP(alpha=0.0), tokens, signals, 12)
    kept = np.take_along_axis(np.asarray(tokens.patches), np.asarray(plan.kept)[..., None], axis=1)
    np.testing.assert_array_equal(out.patches, kept)
    assert (np.asarray(plan.target) == -1).all()


def test_propagation_is_affine_in_alpha():
    tokens, signals = scene(1)
    at = {alpha: np.asarray(condense(tc.GTP(alpha=alpha), tokens, signals, 12)[1].x) for alpha in (0.0, 0.4, 1.0)}
    np.testing.assert_allclose(at[0.4], at[0.0] + 0.4 * (at[1.0] - at[0.0]), rtol=0, atol=1e-6)


def test_a_token_without_kept_neighbours_is_lost_and_changes_nothing():
    tokens, signals = scene(2)
    reducer = tc.GTP(graph="spatial", alpha=0.5)
    plan, out = condense(reducer, tokens, signals, 1)
    lonely = np.flatnonzero(np.asarray(plan.target[0]) == -1)
    assert len(lonely) >= 11  # a kept token has at most eight neighbours
    x = tokens.x.at[0, 1 + plan.removed[0, lonely[0]]].add(100.0)
    changed = plans.apply(plan, tokens.with_x(x).with_state(None))
    np.testing.assert_array_equal(changed.x[0], out.x[0])
    assert int(out.slots[0, plan.removed[0, lonely[0]]]) == -1


@pytest.mark.parametrize("name", ["diag_mean", "diag_max", "received_mean", "received_max", "mixed_mean", "sum_max"])
def test_scores_read_the_map_as_they_say(name):
    tokens, signals = scene(3)
    plan, _ = condense(tc.GTP(score=name), tokens, signals, 12)
    maps = maps_of(3, 1)
    diagonal = np.diagonal(maps, axis1=-2, axis2=-1)[..., 1:]
    received = maps.sum(-2)[..., 1:]
    first, how = name.split("_")
    over = {"mean": np.mean, "max": np.max}[how]
    d, r = over(diagonal, axis=1), over(received, axis=1)
    score = {"diag": d, "received": r, "mixed": d * r, "sum": d + r}[first]
    for image in range(2):
        np.testing.assert_array_equal(plan.kept[image], reference.split(score[image], 12)[0])


def test_too_many_neighbours_name_the_number():
    tokens, signals = scene(0)
    with pytest.raises(tc.InputError, match="neighbors=20 is out of range: 20 patch tokens have between 0 and 19"):
        condense(tc.GTP(neighbors=20), tokens, signals, 12)


def test_sizes_in_the_thousands_stay_finite():
    tokens, signals = scene(4)
    _, out = condense(tc.GTP(alpha=0.4), replace(tokens, size=jnp.full_like(tokens.size, 10_000.0)), signals, 12)
    assert bool(jnp.isfinite(jnp.log(out.size)).all())
