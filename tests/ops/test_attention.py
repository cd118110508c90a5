"""Tests of attention and its signals against the explicit attention map in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcvit_jax.ops import attention as ops
from tcvit_jax.ops.attention import SIGNALS, recomputed_statistics, sparsify, statistics_of_map, unnormalized_weights

# Compile once for all examples of a shape.
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
def test_outputs_and_signals_match_the_explicit_map(seed, has_bias):
    q, k, v = random_qkv(seed)
    bias = np.random.default_rng(seed).uniform(0, 2, (2, 7)).astype(np.float32) if has_bias else None
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


def test_class_row_averages_all_class_tokens():
    q, k, v = random_qkv(5)
    _, signals = attention(*map(jnp.asarray, (q, k, v)), signals=("class_row",), class_tokens=2)
    np.testing.assert_allclose(signals.class_row, explicit(q, k)[:, :, :2].mean(2), atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 999), st.sampled_from([0.9, 0.5, 0.01, 1.0]), st.sampled_from([2, 7, 9]))
def test_sparsify_drops_the_official_count(seed, keep, tokens):
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
    # The remaining entries are not normalized again, and signals are computed from them.
    np.testing.assert_allclose(values, expected @ v, atol=2e-6)
    np.testing.assert_allclose(signals.received, expected.sum(-2), atol=2e-6)
    np.testing.assert_allclose(signals.class_row, expected[:, :, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "keep", "dropped"), [(190, 0.9, 3608), (10, 0.9, 8), (3, 0.9, 0), (197, 0.5, 19403)]
)
def test_sparsify_count_is_computed_in_double_precision(tokens, keep, dropped):
    """36,100 entries times 1 - 0.9 are 3,609.9999..., so the 3,609-th smallest entry is the first one kept."""
    weights = jax.random.uniform(jax.random.key(0), (1, 2, tokens, tokens))
    np.testing.assert_array_equal((sparsify(weights, keep) == 0).sum((-2, -1)), dropped)


def test_sparsify_gradients_pass_through_kept_entries():
    weights = jax.random.uniform(jax.random.key(0), (1, 1, 6, 6))
    gradient = jax.jit(jax.grad(lambda w: (sparsify(w, 0.5) ** 2).sum()))(weights)
    np.testing.assert_array_equal(gradient, 2 * sparsify(weights, 0.5))


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_num_queries_returns_the_outputs_of_the_first_queries(keep):
    q, k, v = map(jnp.asarray, random_qkv(6))
    values, signals = attention(q, k, v, keep_fraction=keep, signals=SIGNALS)
    first_values, first_signals = attention(q, k, v, keep_fraction=keep, signals=SIGNALS, num_queries=2)
    np.testing.assert_allclose(first_values, values[:, :, :2], atol=1e-6)
    np.testing.assert_allclose(first_signals.received, signals.received, atol=1e-6)
    if keep == 1:
        truncated, _ = attention(q[:, :, :2], k, v)
        np.testing.assert_allclose(truncated, values[:, :, :2], atol=1e-6)


def test_only_requested_signals_are_returned():
    _, signals = attention(*map(jnp.asarray, random_qkv(0)), signals=("diagonal",))
    assert signals.diagonal is not None
    assert signals.received is signals.map is signals.keys is signals.class_row is None


def test_log_size_bias_equals_repeating_keys():
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


def test_bfloat16_inputs_return_float32_signals():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in random_qkv(3))
    values, signals = attention(q, k, v, signals=SIGNALS)
    assert values.dtype == jnp.bfloat16
    weights = explicit(*(np.asarray(x, np.float64) for x in (q, k)))
    # Queries are scaled by a power of two, which is exact in bfloat16; only the float32 sums are rounded.
    np.testing.assert_allclose(signals.received, weights.sum(-2), atol=1e-5)


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_gradient_equals_that_of_textbook_attention(argument):
    qkv = list(map(jnp.asarray, random_qkv(4)))

    def textbook(q, k, v):
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / 2
        return (jax.nn.softmax(scores) @ v).sum(where=jnp.arange(4) > 0)

    def optimized(q, k, v):
        return attention(q, k, v)[0].sum(where=jnp.arange(4) > 0)

    actual, expected = (jax.jit(jax.grad(form, argument))(*qkv) for form in (optimized, textbook))
    np.testing.assert_allclose(actual, expected, atol=2e-6)


def test_removing_tokens_equals_masking_their_keys():
    """Gathered tokens against all tokens with a bias of minus infinity on the other keys."""
    q, k, v = map(jnp.asarray, random_qkv(7))
    kept = np.asarray([0, 2, 3, 6])
    gathered, _ = attention(q[:, :, kept], k[:, :, kept], v[:, :, kept])
    mask = jnp.full((2, 7), -jnp.inf).at[:, kept].set(0)
    masked, _ = attention(q, k, v, key_bias=mask)
    np.testing.assert_allclose(gathered, masked[:, :, kept], atol=1e-6)


MAP_SIGNALS = ("class_row", "diagonal", "received", "map", "map_max")


@partial(jax.jit, static_argnames=("signals", "classes"))
def compute_both(q, k, weight, signals, classes=2):
    """Return signals from the stored map and from the recomputed map, as on a TPU."""
    e = unnormalized_weights(q, k, weight, None)
    inverse = 1 / e.sum(-1)
    stored = statistics_of_map(e, inverse, signals, classes)
    return stored, recomputed_statistics(q, k, weight, e, inverse, signals, classes)


@pytest.mark.parametrize("signals", [MAP_SIGNALS, ("class_row", "received", "diagonal")], ids=["map", "no-map"])
@pytest.mark.parametrize("has_weight", [True, False])
def test_recomputed_signals_equal_those_of_the_stored_map(signals, has_weight):
    q, k, _ = map(jnp.asarray, random_qkv(8, scale=2.0))
    weight = jnp.asarray(np.random.default_rng(8).uniform(1, 9, (2, 7)), jnp.float32) if has_weight else None
    stored, recomputed = compute_both(q, k, weight, signals)
    assert set(stored) == set(recomputed) == set(signals)
    for name in signals:
        np.testing.assert_allclose(recomputed[name], stored[name], rtol=1e-5, atol=1e-6)

    def loss(index):
        return lambda q: sum((signal**2).sum() for signal in compute_both(q, k, weight, signals)[index].values())

    actual, expected = (jax.jit(jax.grad(loss(index)))(q) for index in (1, 0))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_recomputed_map_of_bfloat16_weights_is_a_float32_mean():
    """On a TPU, entries have eight significant bits, and their mean over heads is float32."""
    q, k, _ = map(jnp.asarray, random_qkv(8, scale=2.0))
    e = unnormalized_weights(q, k, None, None)
    inverse = 1 / e.sum(-1)
    exact = statistics_of_map(e, inverse, ("map", "map_max"), 1)
    rounded = recomputed_statistics(q, k, None, e.astype(jnp.bfloat16), inverse, ("map", "map_max"), 1)
    for name, expected in exact.items():
        assert rounded[name].dtype == jnp.float32
        np.testing.assert_allclose(rounded[name], expected, rtol=2**-8)
        assert float(jnp.abs(rounded[name] - expected).max()) > 0


@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("keep", [1.0, 0.9])
def test_class_row_is_the_mean_of_the_first_rows_of_the_map(has_mask, keep):
    q, k, v = map(jnp.asarray, random_qkv(8, scale=2.0))
    bias = jnp.asarray(np.random.default_rng(8).uniform(0, 2, (2, 7)), jnp.float32)
    bias = bias.at[:, 4].set(-jnp.inf) if has_mask else bias
    _, signals = attention(
        q[:, :1], k[:, :1], v[:, :1], key_bias=bias, has_mask=has_mask, keep_fraction=keep, class_tokens=2,
        signals=("class_row", "map"),
    )  # fmt: skip
    np.testing.assert_allclose(signals.class_row[:, 0], signals.map[:, :2].mean(1), rtol=1e-6)


def test_masked_key_with_a_large_score_has_no_effect():
    q, k, v = map(jnp.asarray, random_qkv(9))
    q, k = q.at[..., 0].set(40.0), k.at[:, :, 3, 0].set(40.0)
    bias = jnp.zeros((2, 7)).at[:, 3].set(-jnp.inf)
    values, signals = attention(q, k, v, key_bias=bias, has_mask=True, signals=("received",))
    kept = np.asarray([0, 1, 2, 4, 5, 6])
    expected, _ = attention(q[:, :, kept], k[:, :, kept], v[:, :, kept])
    np.testing.assert_allclose(values[:, :, kept], expected, atol=1e-6)
    np.testing.assert_array_equal(signals.received[:, :, 3], 0)
