"""TC-ViT against its formulas, and the invariants of its fusion."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tcvit_jax as tc
from tcvit_jax.ops.attention import SIGNALS, Signals, attention
from tcvit_jax.tokens import Tokens
from tests.reducers import reference
from tests.reducers.test_gtp import maps_of
from tests.reducers.test_reducers import condense, scene


@settings(max_examples=25)
@given(
    st.integers(0, 999), st.integers(1, 2), st.sampled_from([1, 11, 19]), st.integers(1, 3),
    st.sampled_from([None, 1, 2]), st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
def test_equals_the_reference(seed, prefix, keep, order, match_order, balance):
    tokens, signals = scene(seed, prefix)
    reducer = tc.TCViT(order=order, match_order=match_order, balance=balance)
    plan, out = condense(reducer, tokens, signals, keep)
    for image in range(2):
        kept, removed, target, features, sizes = reference.tcvit(
            np.asarray(tokens.patches[image], np.float64), np.asarray(tokens.size[image], np.float64),
            maps_of(seed, prefix)[image], keep, order=order, match_order=match_order, balance=balance, prefix=prefix,
        )  # fmt: skip
        np.testing.assert_array_equal(plan.kept[image], kept)
        np.testing.assert_array_equal(plan.removed[image], removed)
        np.testing.assert_array_equal(plan.target[image], target)
        np.testing.assert_allclose(out.patches[image], features, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out.size[image], sizes, rtol=1e-6)


def test_nothing_is_lost():
    tokens, signals = scene(0)
    plan, out = condense(tc.TCViT(), tokens, signals, 7)
    np.testing.assert_allclose(out.size.sum(-1), tokens.size.sum(-1), rtol=1e-6)
    assert (np.asarray(plan.target) >= 0).all()
    assert (np.asarray(out.slots) >= 0).all()
    moment = (tokens.size[..., None] * tokens.patches).sum(1)
    np.testing.assert_allclose((out.size[..., None] * out.patches).sum(1), moment, rtol=1e-4, atol=1e-4)


def test_balance_zero_is_the_order_of_class_attention():
    tokens, signals = scene(1)
    plan, _ = condense(tc.TCViT(balance=0.0), tokens, signals, 7)
    attended = maps_of(1, 1).mean(1)[:, 0, 1:]
    for image in range(2):
        np.testing.assert_array_equal(plan.kept[image], np.sort(np.argsort(-attended[image], kind="stable")[:7]))


@pytest.mark.parametrize("registers", [0, 4])
def test_without_a_class_token_connectivity_stands_alone(registers):
    sizes = {"class_token": False, "global_pool": "avg", "reg_tokens": registers}
    with pytest.raises(tc.InputError, match="reads class attention, and class_token=False: use TCViT"):
        tc.create_model("deit_tiny_patch16_224", tc.TCViT(), 4, **sizes)
    assert tc.create_model("deit_tiny_patch16_224", tc.TCViT(balance=1.0), 4, **sizes).removed == (4,) * 12
    plan, _ = condense(tc.TCViT(balance=1.0), *scene(2, prefix=0), 7)
    assert plan.kept.shape == (2, 7)


def test_where_the_class_token_attends_to_itself_alone_connectivity_decides():
    walk = np.full((1, 6, 6), 0.1)
    walk[:, :, 3] = 0.5
    walk[:, 0] = np.eye(6)[0]
    tokens = Tokens.start(jnp.ones((1, 6, 4)), 1)
    plan, out = condense(tc.TCViT(), tokens, Signals(map=jnp.asarray(walk, jnp.float32)), 1)
    np.testing.assert_array_equal(plan.kept, [[2]])
    walk[:] = np.eye(6)[0]
    plan, out = condense(tc.TCViT(), tokens, Signals(map=jnp.asarray(walk, jnp.float32)), 2)
    np.testing.assert_array_equal(plan.kept, [[0, 1]])
    assert bool(jnp.isfinite(out.x).all())


def test_patches_may_come_in_any_order():
    tokens, signals = scene(3)
    order = np.random.default_rng(0).permutation(20)
    whole = np.concatenate([[0], 1 + order])
    shuffled = Tokens(tokens.x[:, whole], tokens.size[:, order], tokens.origin, tokens.slots, prefix=1)
    assert signals.map is not None
    plan, out = condense(tc.TCViT(), tokens, signals, 7)
    plan2, out2 = condense(tc.TCViT(), shuffled, Signals(map=signals.map[:, whole][:, :, whole]), 7)
    for image in range(2):
        back = order[np.asarray(plan2.kept[image])]
        assert set(back) == set(np.asarray(plan.kept[image]))
        np.testing.assert_allclose(out2.patches[image][np.argsort(back)], out.patches[image], rtol=1e-5, atol=1e-6)


def test_fusing_a_duplicate_and_counting_it_twice_changes_no_attention():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 9, 8)).astype(np.float32)
    x[0, 6] = x[0, 3]
    x = jnp.asarray(x)
    weights = [jnp.asarray(rng.standard_normal((2, 8, 4)), jnp.float32) for _ in range(3)]

    def attend(tokens):
        bias = jnp.concatenate([jnp.zeros((1, 1)), jnp.log(tokens.size)], axis=1)
        return attention(*(jnp.einsum("btd,hde->bhte", tokens.x, w) for w in weights), key_bias=bias, signals=SIGNALS)

    tokens = Tokens.start(x, 1)
    dense, _ = attend(tokens)
    # A map in which the copy is the least of all, and goes to its twin.
    flat = np.full((1, 9, 9), 1 / 9)
    flat[:, :, 6] = 0.01
    flat[:, 6, 3] = 1.0
    plan, out = condense(tc.TCViT(order=1), tokens, Signals(map=jnp.asarray(flat, jnp.float32)), 7)
    np.testing.assert_array_equal(plan.removed, [[5]])
    np.testing.assert_array_equal(plan.target, [[2]])
    condensed, _ = attend(out)
    left = [0, 1, 2, 3, 4, 5, 7, 8]
    np.testing.assert_allclose(condensed, dense[:, :, left], atol=1e-5)
    forgotten, _ = attend(replace(out, size=jnp.ones_like(out.size)))
    assert float(jnp.abs(forgotten - dense[:, :, left]).max()) > 1e-2


def test_long_walks_send_every_token_to_one_place():
    tokens, signals = scene(5)
    distinct = [
        len(set(np.asarray(condense(tc.TCViT(order=1, match_order=order), tokens, signals, 10)[0].target[0]).tolist()))
        for order in (1, 64)
    ]
    assert distinct[0] > 3
    assert distinct[1] == 1
