"""TC-ViT with every option against a reference of its formulas, and invariants of its walks and its fusion."""

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

TCVIT_OPTIONS = [pytest.param(r, id=repr(r)) for r in REDUCERS_AND_SWITCHES if isinstance(r, tc.TCViT)]


def check_against_reference(reducer, example, keep):
    """Check kept, removed and matched tokens exactly; weights, features and sizes up to rounding."""
    plan, out = condense(reducer, example, keep)
    tokens = example.tokens
    for image in range(len(tokens.x)):
        x, size = (np.asarray(value[image], np.float64) for value in (tokens.patches, tokens.size))
        kept, removed, share, features, sizes = reference.tcvit(
            x,
            size,
            example.maps[image],
            example.keys[image],
            example.values[image],
            keep,
            reducer,
            tokens.prefix,
            tokens.class_tokens,
        )
        np.testing.assert_array_equal(plan.kept[image], kept)
        np.testing.assert_array_equal(plan.removed[image], removed)
        if share is not None:
            np.testing.assert_array_equal(plan.target[image], share.argmax(1))
            np.testing.assert_allclose(np.asarray(plan.share[image]).T, share, rtol=0, atol=1e-5)
        np.testing.assert_allclose(out.patches[image], features, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out.size[image], sizes, rtol=1e-5)


@pytest.mark.parametrize("reducer", TCVIT_OPTIONS)
@settings(max_examples=3)
@given(st.integers(0, 9999), st.sampled_from([(1, 1, 12), (2, 1, 1), (2, 2, 1), (5, 1, 19)]))
def test_every_option_equals_the_reference(reducer, seed, shape):
    prefix, class_tokens, keep = shape
    check_against_reference(reducer, scene(seed, prefix, class_tokens=class_tokens), keep)


@st.composite
def tcvit_reducers(draw):
    """TC-ViT with any valid combination of options."""
    options = {name: draw(st.sampled_from(values)) for name, values in OPTIONS.items()}
    if options["dominance"] == "cls_walk":
        options["graph"] = "full"
    if options["score_norm"] == "zscore" and options["fuse_weight"] == "score":
        options["score_norm"] = "sum"
    # After long walks, softmax makes matches indistinguishable in float32; the other norms do not.
    match_orders = [1] if options["match_norm"] == "softmax" else [None, 1, 2, 5]
    # On an affinity, long walks from all tokens end alike up to rounding.
    if options["affinity"] != "attention":
        match_orders = [1, 2]
    # Exact in binary, so that the same ranks tie in float32 and float64.
    balances = [0.0] if options["affinity"] == "meeting" else [0.0, 0.25, 0.5, 1.0]
    return tc.TCViT(
        order=draw(st.integers(1, 4)),
        match_order=draw(st.sampled_from(match_orders)),
        balance=draw(st.sampled_from(balances)),
        gamma=draw(st.sampled_from([0.2, 0.5, 1.0])),
        temperature=draw(st.sampled_from([0.5, 1.0, 2.0])),
        top_m=draw(st.integers(1, 6)),
        self_loops=draw(st.booleans()),
        renormalize=draw(st.booleans()),
        host_share=draw(st.sampled_from([0.0, 0.5, 0.8])),
        **options,
    )


@settings(max_examples=25)
@given(tcvit_reducers(), st.integers(0, 9999), st.sampled_from([12, 19]))
def test_combined_options_equal_the_reference(reducer, seed, keep):
    check_against_reference(reducer, scene(seed, batch=1), keep)


@pytest.mark.parametrize("fuse", ["hard", "soft", "topm"])
def test_fusion_preserves_size_and_weighted_sum(fuse):
    example = scene(0)
    plan, out = condense(tc.TCViT(fuse=fuse), example, KEEP)
    tokens = example.tokens
    np.testing.assert_allclose(out.size.sum(-1), tokens.size.sum(-1), rtol=1e-6)
    assert (np.asarray(plan.target) >= 0).all()
    moment = (tokens.size[..., None] * tokens.patches).sum(1)
    np.testing.assert_allclose((out.size[..., None] * out.patches).sum(1), moment, rtol=1e-4, atol=1e-4)


def test_soft_fusion_at_low_temperature_equals_hard_fusion():
    example = scene(1)
    _, hard = condense(tc.TCViT(), example, KEEP)
    _, cold = condense(tc.TCViT(fuse="soft", temperature=1e-4), example, KEEP)
    np.testing.assert_allclose(cold.x, hard.x, atol=1e-6)
    np.testing.assert_allclose(condense(tc.TCViT(fuse="topm", top_m=1), example, KEEP)[1].x, hard.x, atol=1e-6)
    _, soft = condense(tc.TCViT(fuse="soft"), example, KEEP)
    np.testing.assert_allclose(condense(tc.TCViT(fuse="topm", top_m=KEEP), example, KEEP)[1].x, soft.x, atol=1e-6)
    assert float(jnp.abs(soft.x - hard.x).max()) > 0.1


def test_zero_balance_selects_by_class_attention():
    """The selection equals that of EViT; with `fuse="drop"`, the result is EViT without its fused token."""
    example = scene(1)
    class_attention = example.maps.mean(1)[:, 0, 1:]
    for reducer in (tc.TCViT(balance=0.0), tc.TCViT(balance=0.0, fuse="drop")):
        plan, out = condense(reducer, example, KEEP)
        for image in range(2):
            np.testing.assert_array_equal(
                plan.kept[image], np.sort(np.argsort(-class_attention[image], kind="stable")[:KEEP])
            )
    np.testing.assert_array_equal(
        out.patches, np.take_along_axis(np.asarray(example.tokens.patches), np.asarray(plan.kept)[..., None], 1)
    )


@pytest.mark.parametrize("registers", [0, 4])
def test_class_token_is_required_unless_dominance_does_not_need_it(registers):
    sizes = {"class_token": False, "global_pool": "avg", "reg_tokens": registers}
    with pytest.raises(tc.InputError) as error:
        tc.create_model("deit_tiny_patch16_224", tc.TCViT(), 4, **sizes)
    assert str(error.value) == ("reducer=TCViT() requires class_token=True: set balance=1.0 or dominance='gap'")
    for reducer in (tc.TCViT(balance=1.0), tc.TCViT(dominance="gap")):
        assert tc.create_model("deit_tiny_patch16_224", reducer, 4, **sizes).removed == (4,) * 12
        check_against_reference(reducer, scene(2, registers, class_tokens=0), KEEP)


def test_connectivity_decides_if_the_class_token_attends_to_itself_only():
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
def test_result_does_not_depend_on_the_order_of_patches(fuse):
    example, reducer = scene(3), tc.TCViT(fuse=fuse)
    order = np.random.default_rng(0).permutation(20)
    token_order = np.concatenate([[0], 1 + order])
    tokens, signals = example.tokens, example.signals
    shuffled = replace(tokens, x=tokens.x[:, token_order], size=tokens.size[:, order])
    shuffled_signals = Signals(
        map=signals.map[:, token_order][:, :, token_order], class_row=signals.class_row[:, :, token_order]
    )
    _, out = condense(reducer, example, KEEP)
    plan2, out2 = condense(reducer, example._replace(tokens=shuffled, signals=shuffled_signals), KEEP)
    for image in range(2):
        inverse = np.argsort(order[np.asarray(plan2.kept[image])])
        actual = np.asarray(out2.patches[image])
        np.testing.assert_allclose(
            np.concatenate([actual[:KEEP][inverse], actual[KEEP:]]), out.patches[image], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("fuse", ["hard", "soft"])
def test_fusing_a_duplicate_with_proportional_attention_changes_no_output(fuse):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 9, 8)).astype(np.float32)
    x[0, 6] = x[0, 3]
    x = jnp.asarray(x)
    weights = [jnp.asarray(rng.standard_normal((2, 8, 4)), jnp.float32) for _ in range(3)]

    def attend_tokens(tokens):
        bias = jnp.concatenate([jnp.zeros((1, 1)), jnp.log(tokens.size)], axis=1)
        return attend(*(jnp.einsum("btd,hde->bhte", tokens.x, w) for w in weights), key_bias=bias)

    tokens = Tokens.start(x, 1)
    dense, _ = attend_tokens(tokens)
    # In this map the copy has the lowest score, and its best match is the original.
    flat = np.full((1, 9, 9), 1 / 9)
    flat[:, :, 6] = 0.01
    flat[:, 6] = 0
    flat[:, 6, 3] = 1.0
    signals = Signals(map=jnp.asarray(flat, jnp.float32), class_row=jnp.asarray(flat[:, None, 0], jnp.float32))
    plan, out = condense(tc.TCViT(order=1, fuse=fuse), Scene(tokens, signals, flat, flat, flat, (2, 4)), 7)
    np.testing.assert_array_equal(plan.removed, [[5]])
    np.testing.assert_array_equal(plan.target, [[2]])
    condensed, _ = attend_tokens(out)
    remaining = [0, 1, 2, 3, 4, 5, 7, 8]
    np.testing.assert_allclose(condensed, dense[:, :, remaining], atol=1e-5)
    unweighted, _ = attend_tokens(replace(out, size=jnp.ones_like(out.size)))
    assert float(jnp.abs(unweighted - dense[:, :, remaining]).max()) > 1e-2


def test_zero_value_gives_no_nan_gradient():
    example = scene(9)

    def loss(v):
        q = jnp.ones((2, 3, 21, 4))
        signals = attend(q, q, v)[1]
        reducer = tc.TCViT(dominance="cls_values", fuse="single", grad_through_soft=True)
        tokens = example.tokens.with_state(reducer.prepare(example.tokens, example.grid))
        return (plans.apply(reducer.plan(tokens, signals, KEEP), tokens).x ** 2).sum()

    values = jnp.asarray(example.values, jnp.float32).at[:, :, 5].set(0)
    assert bool(jnp.isfinite(jax.grad(loss)(values)).all())


def mean_destinations(seeds=range(5), **options):
    """Return the number of different kept tokens that receive removed tokens, averaged over images."""
    targets = [condense(tc.TCViT(order=1, **options), scene(seed), KEEP)[0].target for seed in seeds]
    return np.mean([count_destinations(np.asarray(target))[0] for target in targets])


def test_long_walks_collapse_to_one_destination_and_katz_does_not():
    distinct = [mean_destinations(match_order=order) for order in (1, 2, 4, 64)]
    assert distinct[0] > 3
    assert distinct[-1] == 1
    assert distinct == sorted(distinct, reverse=True)
    for order in (8, 64):
        assert mean_destinations(match_order=order, walk="katz", gamma=0.2) > 0.75 * distinct[0]
    # The lift preserves differences that the walk has not removed yet.
    assert mean_destinations(match_order=4, match_norm="lift") > mean_destinations(match_order=4)


@pytest.mark.slow
def test_gradients_flow_through_soft_shares_only_if_enabled():
    """Gradients equal central differences of the full step: attention map, shares, sizes and features."""
    example, rng = scene(8), np.random.default_rng(0)
    cotangent = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 7, 6), (2, 7))]
    direction = jnp.asarray(rng.standard_normal((2, 21, 21)), jnp.float32)

    def value(transition_matrix, **options):
        reducer, signals = tc.TCViT(**options), replace(example.signals, map=transition_matrix)
        _, out = condense(reducer, example._replace(signals=signals), 7)
        return (out.patches * cotangent[0]).sum() + (out.size * cotangent[1]).sum()

    transition_matrix = example.signals.map
    for options in ({"fuse": "soft"}, {"fuse": "topm"}, {"fuse": "hard", "grad_through_soft": True}):
        assert float(jnp.abs(jax.grad(lambda w, s=options: value(w, **s))(transition_matrix)).max()) == 0
    for options in (
        {"fuse": "soft"}, {"fuse": "soft", "temperature": 2.0, "match_norm": "lift"}, {"fuse": "topm", "walk": "katz"},
        {"fuse": "soft", "fuse_weight": "connectivity"},
    ):  # fmt: skip
        slope = float(
            (jax.grad(lambda w, s=options: value(w, grad_through_soft=True, **s))(transition_matrix) * direction).sum()
        )
        step = 3e-4
        up, down = (
            float(value(transition_matrix + sign * step * direction, grad_through_soft=True, **options))
            for sign in (1, -1)
        )
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-2, atol=5e-3)
        assert abs(slope) > 0.01
