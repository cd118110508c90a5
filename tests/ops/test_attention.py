"""Attention and its signals against the explicit map in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops import attention as ops
from tcvit_jax.ops.attention import SIGNALS, recomputed_statistics, sparsify, statistics_of_map, unnormalized_weights

# One compilation for all examples of a shape.
attention = jax.jit(
    ops.attention, static_argnames=("signals", "class_tokens", "keep_fraction", "num_queries", "has_mask")
)


def random_qkv(seed, tokens=7, scale=1.0):
    rng = np.random.default_rng(seed)
    return [scale * rng.standard_normal((2, 3, tokens, 4)).astype(np.float32) for _ in range(3)]


def explicit(q, k, bias=None):
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) / np.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias[:, None, None, :]
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@settings(max_examples=15)
@given(st.integers(0, 999), st.booleans())
def test_values_and_signals_are_those_of_the_map(seed, biased):
    q, k, v = random_qkv(seed)
    bias = np.random.default_rng(seed).uniform(0, 2, (2, 7)).astype(np.float32) if biased else None
    weights = explicit(q, k, bias)
    values, signals = attention(*map(jnp.asarray, (q, k, v)), key_bias=bias, signals=SIGNALS)
    np.testing.assert_allclose(values, weights @ v, atol=2e-6)
    np.testing.assert_allclose(signals.diagonal, np.diagonal(weights, axis1=-2, axis2=-1), atol=1e-6)
    np.testing.assert_allclose(signals.received, weights.sum(-2), atol=2e-6)
    np.testing.assert_allclose(signals.map, weights.mean(1), atol=1e-6)
    np.testing.assert_allclose(signals.map_max, weights.max(1), atol=1e-6)
    np.testing.assert_allclose(signals.class_row, weights[:, :, 0], atol=1e-6)
    np.testing.assert_allclose(signals.value_norm, np.linalg.norm(v, axis=-1), rtol=1e-6)
    np.testing.assert_allclose(signals.keys, k.mean(1), atol=1e-6)


def test_class_row_is_the_mean_of_all_class_tokens():
    q, k, v = random_qkv(5)
    _, signals = attention(*map(jnp.asarray, (q, k, v)), signals=("class_row",), class_tokens=2)
    np.testing.assert_allclose(signals.class_row, explicit(q, k)[:, :, :2].mean(2), atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([0.9, 0.5, 0.01, 1.0]), st.sampled_from([2, 7, 9]))
def test_sparsification_drops_the_official_count(seed, keep, tokens):
    q, k, v = random_qkv(seed, tokens)
    values, signals = attention(*map(jnp.asarray, (q, k, v)), keep_fraction=keep, signals=("received", "class_row"))
    dense = explicit(q, k)
    rank = int(tokens * tokens * (1 - keep))
    expected = dense.copy()
    for image in range(2):
        for head in range(3):
            if rank:
                threshold = np.sort(dense[image, head].ravel())[rank - 1]
                expected[image, head][dense[image, head] < threshold] = 0
                assert np.count_nonzero(expected[image, head]) == tokens**2 - rank + 1
    # What is left is as it was; rows are not scaled up again. Signals are of what is left.
    np.testing.assert_allclose(values, expected @ v, atol=2e-6)
    np.testing.assert_allclose(signals.received, expected.sum(-2), atol=2e-6)
    np.testing.assert_allclose(signals.class_row, expected[:, :, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "keep", "dropped"), [(190, 0.9, 3608), (10, 0.9, 8), (3, 0.9, 0), (197, 0.5, 19403)]
)
def test_the_count_is_that_of_double_precision(tokens, keep, dropped):
    """36,100 entries times 1 - 0.9 are 3,609.9999...: the 3,609-th smallest is kept, and not the 3,610-th."""
    weights = jax.random.uniform(jax.random.key(0), (1, 2, tokens, tokens))
    np.testing.assert_array_equal((sparsify(weights, keep) == 0).sum((-2, -1)), dropped)


def test_gradients_of_a_sparsified_map_pass_through_what_is_left():
    weights = jax.random.uniform(jax.random.key(0), (1, 1, 6, 6))
    gradient = jax.jit(jax.grad(lambda w: (sparsify(w, 0.5) ** 2).sum()))(weights)
    np.testing.assert_array_equal(gradient, 2 * sparsify(weights, 0.5))


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_reading_the_first_queries_alone_gives_their_values(keep):
    q, k, v = map(jnp.asarray, random_qkv(6))
    values, signals = attention(q, k, v, keep_fraction=keep, signals=SIGNALS)
    first, same = attention(q, k, v, keep_fraction=keep, signals=SIGNALS, num_queries=2)
    np.testing.assert_allclose(first, values[:, :, :2], atol=1e-6)
    np.testing.assert_allclose(same.received, signals.received, atol=1e-6)
    if keep == 1:
        few, _ = attention(q[:, :, :2], k, v)
        np.testing.assert_allclose(few, values[:, :, :2], atol=1e-6)


def test_only_what_is_asked_for_is_handed_out():
    _, signals = attention(*map(jnp.asarray, random_qkv(0)), signals=("diagonal",))
    assert signals.diagonal is not None
    assert signals.received is signals.map is signals.keys is signals.class_row is None


def test_log_size_counts_a_key_as_often_as_its_size():
    q, k, v = random_qkv(1, tokens=4)
    sizes = np.asarray([1, 3, 2, 1])
    bias = np.tile(np.log(sizes), (2, 1)).astype(np.float32)
    values, _ = attention(*map(jnp.asarray, (q, k, v)), key_bias=jnp.asarray(bias))
    repeated = [np.repeat(x, sizes, axis=2) for x in (k, v)]
    expected, _ = attention(*map(jnp.asarray, (q, *repeated)))
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_large_scores_do_not_overflow():
    values, signals = attention(*map(jnp.asarray, random_qkv(2, scale=100.0)), signals=SIGNALS)
    assert all(bool(jnp.isfinite(x).all()) for x in (values, signals.received, signals.map))


def test_bfloat16_inputs_give_float32_signals():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in random_qkv(3))
    values, signals = attention(q, k, v, signals=SIGNALS)
    assert values.dtype == jnp.bfloat16
    weights = explicit(*(np.asarray(x, np.float64) for x in (q, k)))
    # The queries are scaled in bfloat16 by a power of two here, so that the map is exact but for float32 sums.
    np.testing.assert_allclose(signals.received, weights.sum(-2), atol=1e-5)


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_gradient_equals_that_of_the_textbook_form(argument):
    qkv = list(map(jnp.asarray, random_qkv(4)))

    def textbook(q, k, v):
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / 2
        return (jax.nn.softmax(scores) @ v).sum(where=jnp.arange(4) > 0)

    def ours(q, k, v):
        return attention(q, k, v)[0].sum(where=jnp.arange(4) > 0)

    found, expected = (jax.jit(jax.grad(form, argument))(*qkv) for form in (ours, textbook))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_removing_keys_is_masking_them():
    """Fixed-size gathers against the masked form of the same: keys at minus infinity."""
    q, k, v = map(jnp.asarray, random_qkv(7))
    left = np.asarray([0, 2, 3, 6])
    gathered, _ = attention(q[:, :, left], k[:, :, left], v[:, :, left])
    mask = jnp.full((2, 7), -jnp.inf).at[:, left].set(0)
    masked, _ = attention(q, k, v, key_bias=mask)
    np.testing.assert_allclose(gathered, masked[:, :, left], atol=1e-6)


OF_MAP = ("class_row", "diagonal", "received", "map", "map_max")


@partial(jax.jit, static_argnames=("signals", "classes"))
def forms(q, k, weight, signals, classes=2):
    """Signals read from the stored map, and computed anew as a TPU does."""
    e = unnormalized_weights(q, k, weight, None)
    inverse = 1 / e.sum(-1)
    stored = statistics_of_map(e, inverse, signals, classes)
    return stored, recomputed_statistics(q, k, weight, e, inverse, signals, classes)


@pytest.mark.parametrize("signals", [OF_MAP, ("class_row", "received", "diagonal")], ids=["map", "no-map"])
@pytest.mark.parametrize("weighted", [True, False])
def test_signals_computed_anew_are_those_of_the_stored_map(signals, weighted):
    q, k, _ = map(jnp.asarray, random_qkv(8, scale=2.0))
    weight = jnp.asarray(np.random.default_rng(8).uniform(1, 9, (2, 7)), jnp.float32) if weighted else None
    stored, computed = forms(q, k, weight, signals)
    assert set(stored) == set(computed) == set(signals)
    for name in signals:
        np.testing.assert_allclose(computed[name], stored[name], rtol=1e-5, atol=1e-6)

    def loss(which):
        return lambda q: sum((signal**2).sum() for signal in forms(q, k, weight, signals)[which].values())

    found, expected = (jax.jit(jax.grad(loss(which)))(q) for which in (1, 0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_map_in_half_precision_is_that_of_the_values_weights():
    """On a TPU: entries of eight bits, and their mean over heads in float32."""
    q, k, _ = map(jnp.asarray, random_qkv(8, scale=2.0))
    e = unnormalized_weights(q, k, None, None)
    inverse = 1 / e.sum(-1)
    exact = statistics_of_map(e, inverse, ("map", "map_max"), 1)
    rounded = recomputed_statistics(q, k, None, e.astype(jnp.bfloat16), inverse, ("map", "map_max"), 1)
    for name, expected in exact.items():
        assert rounded[name].dtype == jnp.float32
        np.testing.assert_allclose(rounded[name], expected, rtol=2**-8)
        assert float(jnp.abs(rounded[name] - expected).max()) > 0


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("keep", [1.0, 0.9])
def test_the_class_row_is_the_mean_of_the_first_rows_of_the_map(masked, keep):
    q, k, v = map(jnp.asarray, random_qkv(8, scale=2.0))
    bias = jnp.asarray(np.random.default_rng(8).uniform(0, 2, (2, 7)), jnp.float32)
    bias = bias.at[:, 4].set(-jnp.inf) if masked else bias
    _, found = attention(
        q[:, :1], k[:, :1], v[:, :1], key_bias=bias, has_mask=masked, keep_fraction=keep, class_tokens=2,
        signals=("class_row", "map"),
    )  # fmt: skip
    np.testing.assert_allclose(found.class_row[:, 0], found.map[:, :2].mean(1), rtol=1e-6)


def test_a_masked_key_leaves_no_trace_however_large_its_score():
    q, k, v = map(jnp.asarray, random_qkv(9))
    q, k = q.at[..., 0].set(40.0), k.at[:, :, 3, 0].set(40.0)
    bias = jnp.zeros((2, 7)).at[:, 3].set(-jnp.inf)
    values, signals = attention(q, k, v, key_bias=bias, has_mask=True, signals=("received",))
    left = np.asarray([0, 1, 2, 4, 5, 6])
    expected, _ = attention(q[:, :, left], k[:, :, left], v[:, :, left])
    np.testing.assert_allclose(values[:, :, left], expected, atol=1e-6)
    np.testing.assert_array_equal(signals.received[:, :, 3], 0)
