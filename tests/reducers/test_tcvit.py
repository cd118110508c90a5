"""TC-ViT against its formulas with every switch, and the invariants of its walks and its fusion."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.measure.diagnosis import count_destinations
from tcvit_jax.ops import plans
from tcvit_jax.ops.attention import Signals
from tcvit_jax.reducers.tcvit import OPTIONS
from tcvit_jax.tokens import Tokens
from tests.reducers import reference
from tests.reducers.scenes import KEEP, Scene, attend, condense, scene
from tests.switches import REDUCERS_AND_SWITCHES

THROWN = [pytest.param(r, id=repr(r)) for r in REDUCERS_AND_SWITCHES if isinstance(r, tc.TCViT)]


def check_against_the_reference(reducer, drawn, keep):
    """Kept, removed and matched tokens exactly; weights, features and sizes to rounding."""
    plan, out = condense(reducer, drawn, keep)
    tokens = drawn.tokens
    for image in range(len(tokens.x)):
        x, size = (np.asarray(value[image], np.float64) for value in (tokens.patches, tokens.size))
        kept, removed, share, features, sizes = reference.tcvit(
            x, size, drawn.maps[image], drawn.values[image], keep, reducer, tokens.prefix, tokens.class_tokens
        )
        np.testing.assert_array_equal(plan.kept[image], kept)
        np.testing.assert_array_equal(plan.removed[image], removed)
        if share is not None:
            np.testing.assert_array_equal(plan.target[image], share.argmax(1))
            np.testing.assert_allclose(np.asarray(plan.share[image]).T, share, rtol=0, atol=1e-5)
        np.testing.assert_allclose(out.patches[image], features, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out.size[image], sizes, rtol=1e-5)


@pytest.mark.parametrize("reducer", THROWN)
@settings(max_examples=3)
@given(st.integers(0, 9999), st.sampled_from([(1, 1, 12), (2, 1, 1), (2, 2, 1), (5, 1, 19)]))
def test_every_switch_equals_the_reference(reducer, seed, shape):
    prefix, class_tokens, keep = shape
    check_against_the_reference(reducer, scene(seed, prefix, class_tokens=class_tokens), keep)


@st.composite
def any_switches(draw):
    """All switches at once, in any combination that the method takes."""
    chosen = {name: draw(st.sampled_from(options)) for name, options in OPTIONS.items()}
    if chosen["dominance"] == "cls_walk":
        chosen["graph"] = "full"
    if chosen["score_norm"] == "zscore" and chosen["fuse_weight"] == "score":
        chosen["score_norm"] = "sum"
    # After long walks softmax leaves nothing in float32 to tell matches apart by; all other norms can.
    long = [1] if chosen["match_norm"] == "softmax" else [None, 1, 2, 5]
    return tc.TCViT(
        order=draw(st.integers(1, 4)),
        match_order=draw(st.sampled_from(long)),
        # Exact in binary, so that ranks which tie do so in float32 and in float64.
        balance=draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])),
        gamma=draw(st.sampled_from([0.2, 0.5, 1.0])),
        temperature=draw(st.sampled_from([0.5, 1.0, 2.0])),
        top_m=draw(st.integers(1, 6)),
        self_loops=draw(st.booleans()),
        renormalize=draw(st.booleans()),
        **chosen,
    )


@settings(max_examples=25)
@given(any_switches(), st.integers(0, 9999), st.sampled_from([12, 19]))
def test_switches_in_any_combination_equal_the_reference(reducer, seed, keep):
    check_against_the_reference(reducer, scene(seed, batch=1), keep)


@pytest.mark.parametrize("fuse", ["hard", "soft", "topm"])
def test_nothing_is_lost(fuse):
    drawn = scene(0)
    plan, out = condense(tc.TCViT(fuse=fuse), drawn, KEEP)
    tokens = drawn.tokens
    np.testing.assert_allclose(out.size.sum(-1), tokens.size.sum(-1), rtol=1e-6)
    assert (np.asarray(plan.target) >= 0).all()
    moment = (tokens.size[..., None] * tokens.patches).sum(1)
    np.testing.assert_allclose((out.size[..., None] * out.patches).sum(1), moment, rtol=1e-4, atol=1e-4)


def test_cold_soft_fusion_is_hard_fusion():
    drawn = scene(1)
    _, hard = condense(tc.TCViT(), drawn, KEEP)
    _, cold = condense(tc.TCViT(fuse="soft", temperature=1e-4), drawn, KEEP)
    np.testing.assert_allclose(cold.x, hard.x, atol=1e-6)
    np.testing.assert_allclose(condense(tc.TCViT(fuse="topm", top_m=1), drawn, KEEP)[1].x, hard.x, atol=1e-6)
    _, soft = condense(tc.TCViT(fuse="soft"), drawn, KEEP)
    np.testing.assert_allclose(condense(tc.TCViT(fuse="topm", top_m=KEEP), drawn, KEEP)[1].x, soft.x, atol=1e-6)
    assert float(jnp.abs(soft.x - hard.x).max()) > 0.1


def test_balance_zero_is_the_order_of_class_attention():
    """EViT's selection; without fusion, EViT without its fused token."""
    drawn = scene(1)
    attended = drawn.maps.mean(1)[:, 0, 1:]
    for reducer in (tc.TCViT(balance=0.0), tc.TCViT(balance=0.0, fuse="drop")):
        plan, out = condense(reducer, drawn, KEEP)
        for image in range(2):
            np.testing.assert_array_equal(plan.kept[image], np.sort(np.argsort(-attended[image], kind="stable")[:KEEP]))
    np.testing.assert_array_equal(
        out.patches, np.take_along_axis(np.asarray(drawn.tokens.patches), np.asarray(plan.kept)[..., None], 1)
    )


@pytest.mark.parametrize("registers", [0, 4])
def test_without_a_class_token_connectivity_stands_alone(registers):
    sizes = {"class_token": False, "global_pool": "avg", "reg_tokens": registers}
    with pytest.raises(tc.InputError) as caught:
        tc.create_model("deit_tiny_patch16_224", tc.TCViT(), 4, **sizes)
    assert str(caught.value) == ("reducer=TCViT() requires class_token=True: set balance=1.0 or dominance='gap'")
    for reducer in (tc.TCViT(balance=1.0), tc.TCViT(dominance="gap")):
        assert tc.create_model("deit_tiny_patch16_224", reducer, 4, **sizes).removed == (4,) * 12
        check_against_the_reference(reducer, scene(2, registers, class_tokens=0), KEEP)


def test_where_the_class_token_attends_to_itself_alone_connectivity_decides():
    walk = np.full((1, 6, 6), 0.1)
    walk[:, :, 3] = 0.5
    walk[:, 0] = np.eye(6)[0]
    tokens = Tokens.start(jnp.ones((1, 6, 4)), 1)

    def keep(count):
        w = jnp.asarray(walk, jnp.float32)
        signals = Signals(map=w, class_row=w[:, None, 0])
        return condense(tc.TCViT(), Scene(tokens, signals, walk, walk, walk, (1, 5)), count)

    np.testing.assert_array_equal(keep(1)[0].kept, [[2]])
    walk[:] = np.eye(6)[0]
    plan, out = keep(2)
    np.testing.assert_array_equal(plan.kept, [[0, 1]])
    assert bool(jnp.isfinite(out.x).all())


@pytest.mark.parametrize("fuse", ["hard", "soft", "topm", "drop", "single"])
def test_patches_may_come_in_any_order(fuse):
    drawn, reducer = scene(3), tc.TCViT(fuse=fuse)
    order = np.random.default_rng(0).permutation(20)
    whole = np.concatenate([[0], 1 + order])
    tokens, signals = drawn.tokens, drawn.signals
    shuffled = replace(tokens, x=tokens.x[:, whole], size=tokens.size[:, order])
    moved = Signals(map=signals.map[:, whole][:, :, whole], class_row=signals.class_row[:, :, whole])
    _, out = condense(reducer, drawn, KEEP)
    plan2, out2 = condense(reducer, drawn._replace(tokens=shuffled, signals=moved), KEEP)
    for image in range(2):
        back = np.argsort(order[np.asarray(plan2.kept[image])])
        again = np.asarray(out2.patches[image])
        np.testing.assert_allclose(
            np.concatenate([again[:KEEP][back], again[KEEP:]]), out.patches[image], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("fuse", ["hard", "soft"])
def test_fusing_a_duplicate_and_counting_it_twice_changes_no_attention(fuse):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 9, 8)).astype(np.float32)
    x[0, 6] = x[0, 3]
    x = jnp.asarray(x)
    weights = [jnp.asarray(rng.standard_normal((2, 8, 4)), jnp.float32) for _ in range(3)]

    def attended(tokens):
        bias = jnp.concatenate([jnp.zeros((1, 1)), jnp.log(tokens.size)], axis=1)
        return attend(*(jnp.einsum("btd,hde->bhte", tokens.x, w) for w in weights), key_bias=bias)

    tokens = Tokens.start(x, 1)
    dense, _ = attended(tokens)
    # A map in which the copy is the least of all, and goes to its twin.
    flat = np.full((1, 9, 9), 1 / 9)
    flat[:, :, 6] = 0.01
    flat[:, 6] = 0
    flat[:, 6, 3] = 1.0
    signals = Signals(map=jnp.asarray(flat, jnp.float32), class_row=jnp.asarray(flat[:, None, 0], jnp.float32))
    plan, out = condense(tc.TCViT(order=1, fuse=fuse), Scene(tokens, signals, flat, flat, flat, (2, 4)), 7)
    np.testing.assert_array_equal(plan.removed, [[5]])
    np.testing.assert_array_equal(plan.target, [[2]])
    condensed, _ = attended(out)
    left = [0, 1, 2, 3, 4, 5, 7, 8]
    np.testing.assert_allclose(condensed, dense[:, :, left], atol=1e-5)
    forgotten, _ = attended(replace(out, size=jnp.ones_like(out.size)))
    assert float(jnp.abs(forgotten - dense[:, :, left]).max()) > 1e-2


def test_an_empty_value_has_no_nan_gradient():
    drawn = scene(9)

    def loss(v):
        q = jnp.ones((2, 3, 21, 4))
        signals = attend(q, q, v)[1]
        reducer = tc.TCViT(dominance="cls_values", fuse="single", grad_through_soft=True)
        tokens = drawn.tokens.with_state(reducer.prepare(drawn.tokens, drawn.grid))
        return (plans.apply(reducer.plan(tokens, signals, KEEP), tokens).x ** 2).sum()

    values = jnp.asarray(drawn.values, jnp.float32).at[:, :, 5].set(0)
    assert bool(jnp.isfinite(jax.grad(loss)(values)).all())


def destinations(seeds=range(5), **switches):
    """How many different kept tokens the removed ones go to, the mean over images."""
    found = [condense(tc.TCViT(order=1, **switches), scene(seed), KEEP)[0].target for seed in seeds]
    return np.mean([count_destinations(np.asarray(target))[0] for target in found])


def test_long_walks_send_every_token_to_one_place_and_katz_does_not():
    distinct = [destinations(match_order=order) for order in (1, 2, 4, 64)]
    assert distinct[0] > 3
    assert distinct[-1] == 1
    assert distinct == sorted(distinct, reverse=True)
    for order in (8, 64):
        assert destinations(match_order=order, walk="katz", gamma=0.2) > 0.75 * distinct[0]
    # The lift keeps apart what the walk has not made equal yet.
    assert destinations(match_order=4, match_norm="lift") > destinations(match_order=4)


@pytest.mark.slow
def test_gradients_flow_through_soft_shares_only_where_asked():
    """Against central differences of the whole step: attention map, shares, sizes and features."""
    drawn, rng = scene(8), np.random.default_rng(0)
    cotangent = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 7, 6), (2, 7))]
    direction = jnp.asarray(rng.standard_normal((2, 21, 21)), jnp.float32)

    def value(transition_matrix, **switches):
        reducer, signals = tc.TCViT(**switches), replace(drawn.signals, map=transition_matrix)
        _, out = condense(reducer, drawn._replace(signals=signals), 7)
        return (out.patches * cotangent[0]).sum() + (out.size * cotangent[1]).sum()

    transition_matrix = drawn.signals.map
    for switches in ({"fuse": "soft"}, {"fuse": "topm"}, {"fuse": "hard", "grad_through_soft": True}):
        assert float(jnp.abs(jax.grad(lambda w, s=switches: value(w, **s))(transition_matrix)).max()) == 0
    for switches in (
        {"fuse": "soft"}, {"fuse": "soft", "temperature": 2.0, "match_norm": "lift"}, {"fuse": "topm", "walk": "katz"},
        {"fuse": "soft", "fuse_weight": "connectivity"},
    ):  # fmt: skip
        slope = float(
            (jax.grad(lambda w, s=switches: value(w, grad_through_soft=True, **s))(transition_matrix) * direction).sum()
        )
        step = 3e-4
        up, down = (
            float(value(transition_matrix + sign * step * direction, grad_through_soft=True, **switches))
            for sign in (1, -1)
        )
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-2, atol=5e-3)
        assert abs(slope) > 0.01
