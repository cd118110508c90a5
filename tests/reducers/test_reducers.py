"""What holds for every reducer: one parametrised test, which a new entry of `REDUCERS` joins by itself."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import reducers
from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import SIGNALS, attention
from tcvit_jax.tokens import Tokens

METHODS = [pytest.param(kind(), id=name) for name, kind in reducers.REDUCERS.items()]
GRID = (4, 5)


def scene(seed, prefix=1, batch=2, patches=20):
    """Tokens after attention, with sizes, and the attention's signals; patches of the first layer are the state."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.standard_normal((batch, prefix + patches, 6)), jnp.float32)
    q, k = (jnp.asarray(1.5 * rng.standard_normal((batch, 3, prefix + patches, 4)), jnp.float32) for _ in range(2))
    size = jnp.asarray(rng.uniform(1, 4, (batch, patches)), jnp.float32)
    tokens = replace(Tokens.start(x, prefix), size=size)
    return tokens, attention(q, k, q, signals=SIGNALS)[1]


def condense(reducer, tokens, signals, keep):
    tokens = tokens.with_state(reducer.prepare(tokens, GRID))
    plan = reducer.plan(tokens, signals, keep)
    return plan, plans.apply(plan, tokens)


@pytest.mark.parametrize("reducer", METHODS)
@pytest.mark.parametrize("keep", [1, 13, 19])
def test_a_plan_splits_the_patches(reducer, keep):
    plan, out = condense(reducer, *scene(0), keep)
    for image in range(2):
        kept, removed = set(np.asarray(plan.kept[image]).tolist()), set(np.asarray(plan.removed[image]).tolist())
        assert len(kept) == keep
        assert kept | removed == set(range(20))
        assert not kept & removed
    assert (np.diff(plan.kept) > 0).all()
    assert (np.diff(plan.removed) > 0).all()
    assert out.x.shape == (2, 1 + keep, 6)
    assert (plan.target < keep).all()
    # A removed token sits where most of it went.
    most = np.asarray(plan.share.max(1))
    at_target = np.take_along_axis(np.asarray(plan.share), np.maximum(plan.target, 0)[:, None, :], axis=1)[:, 0]
    np.testing.assert_array_equal(np.where(np.asarray(plan.target) < 0, 0, at_target), most)


@pytest.mark.parametrize("reducer", METHODS)
def test_prefix_tokens_pass_untouched_and_sizes_never_shrink(reducer):
    tokens, signals = scene(1, prefix=2)
    plan, out = condense(reducer, tokens, signals, 12)
    np.testing.assert_array_equal(out.x[:, :2], tokens.x[:, :2])
    kept = np.take_along_axis(np.asarray(tokens.size), np.asarray(plan.kept), axis=1)
    assert (np.asarray(out.size) >= kept - 1e-6).all()


@pytest.mark.parametrize("reducer", METHODS)
def test_an_image_alone_gives_what_it_gives_in_a_batch(reducer):
    tokens, signals = scene(2, batch=3)
    plan, out = condense(reducer, tokens, signals, 12)
    for image in range(3):
        alone = jax.tree.map(lambda leaf, image=image: leaf[image : image + 1], (tokens, signals))
        plan_alone, out_alone = condense(reducer, *alone, 12)
        np.testing.assert_array_equal(plan_alone.kept[0], plan.kept[image])
        np.testing.assert_array_equal(plan_alone.target[0], plan.target[image])
        np.testing.assert_allclose(out_alone.x[0], out.x[image], atol=1e-6)


@pytest.mark.parametrize("reducer", METHODS)
def test_jit_equals_eager(reducer):
    tokens, signals = scene(3)
    plan, out = condense(reducer, tokens, signals, 12)
    plan_jit, out_jit = jax.jit(lambda t, s: condense(reducer, t, s, 12))(tokens, signals)
    np.testing.assert_array_equal(plan_jit.kept, plan.kept)
    np.testing.assert_allclose(out_jit.x, out.x, atol=1e-6)


@pytest.mark.parametrize("reducer", METHODS)
@pytest.mark.parametrize("tokens_are", ["identical", "zero", "one of them zero"])
def test_degenerate_tokens_give_no_nan_and_ties_keep_the_lower_index(reducer, tokens_are):
    x = jnp.ones((1, 21, 6)) if tokens_are == "identical" else jnp.zeros((1, 21, 6))
    if tokens_are == "one of them zero":
        x = jax.random.normal(jax.random.key(0), x.shape).at[:, 5].set(0)
    q = jnp.ones((1, 3, 21, 4))
    signals = attention(q, q, q, signals=SIGNALS)[1]
    plan, out = condense(reducer, Tokens.start(x, 1), signals, 12)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((plan, out)))
    if tokens_are == "identical":
        # Flat attention: every score is equal.
        np.testing.assert_array_equal(plan.kept, [range(12)])


@pytest.mark.parametrize("reducer", METHODS)
def test_gradients_through_a_plan_are_those_of_its_matrix(reducer):
    tokens, signals = scene(4)
    tokens = tokens.with_state(reducer.prepare(tokens, GRID))
    plan = reducer.plan(tokens, signals, 12)
    cotangent = jax.random.normal(jax.random.key(0), (2, 13, 6))
    gradient = jax.grad(lambda x: (plans.apply(plan, tokens.with_x(x)).x * cotangent).sum())(tokens.x)
    step = 1e-2 * jax.random.normal(jax.random.key(1), tokens.x.shape)
    change = ((plans.apply(plan, tokens.with_x(tokens.x + step)).x - plans.apply(plan, tokens).x) * cotangent).sum()
    # A plan is linear in the features: the difference is exact but for rounding.
    np.testing.assert_allclose((gradient * step).sum(), change, rtol=1e-3)


@pytest.mark.parametrize("reducer", [None, *METHODS])
def test_config_round_trip_through_json(reducer):
    config = json.loads(json.dumps(reducers.to_config(reducer)))
    assert reducers.from_config(config) == reducer


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "gpt"}, "unknown reducer 'gpt': did you mean 'gtp'?"),
        ({"name": "gtp", "alhpa": 1}, "unknown field of reducer 'gtp': 'alhpa': did you mean 'alpha'?"),
        ({"name": "gtp", "graph": "spacial"}, "unknown graph 'spacial': did you mean 'spatial'?"),
        ({"name": "gtp", "score": "mixed"}, "unknown score 'mixed': did you mean 'mixed_max'?"),
        ({"name": "gtp", "alpha": -0.1}, "alpha=-0.1 is negative: sizes would shrink below one; use 0.1"),
        ({"name": "gtp", "neighbors": -1}, "neighbors=-1 leaves the mixed graph without edges: use 8"),
        ({"name": "tcvit", "order": 0}, "order=0 is no walk: the shortest has 1 step"),
        (
            {"name": "tcvit", "balance": 1.5},
            "balance=1.5 is not between 0 (dominance alone) and 1 (connectivity alone)",
        ),
    ],
)
def test_mistakes_name_the_value(config, message):
    with pytest.raises(tc.InputError) as caught:
        reducers.from_config(config)
    assert str(caught.value) == message
