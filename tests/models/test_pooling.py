"""Heads that pool patch tokens, and what they read of condensed tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.models.pooling import AttentionPool, mean
from tcvit_jax.ops.attention import size_bias
from tests.models.builders import SMALL, images_of, run, variables_of

SIZES = (3, 1, 2, 1)


def pool_and_variables():
    pool = AttentionPool(num_heads=3, mlp_hidden=40, act_layer="gelu", norm_eps=1e-6, dtype="float32")
    tokens = jax.random.normal(jax.random.key(0), (2, len(SIZES), 24))
    variables = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape),
        pool.init(jax.random.key(1), tokens, None, has_mask=False),
    )
    return pool, variables, tokens


def test_attention_pool_reads_sizes_as_repetitions():
    """As a mean that is weighted by size: a token of size 3 counts as three equal tokens."""
    pool, variables, tokens = pool_and_variables()
    repeated = jnp.repeat(tokens, np.array(SIZES), axis=1)
    size = jnp.broadcast_to(jnp.array(SIZES, jnp.float32), (2, len(SIZES)))
    bias = size_bias(size, uses_size_bias=True, has_padding=False)
    expected = pool.apply(variables, repeated, None, has_mask=False)
    np.testing.assert_allclose(pool.apply(variables, tokens, bias, has_mask=False), expected, atol=1e-5)
    assert float(jnp.abs(pool.apply(variables, tokens, None, has_mask=False) - expected).max()) > 1e-3
    np.testing.assert_allclose(mean(tokens, size), repeated.mean(1), atol=1e-6)


def test_attention_pool_does_not_read_padding():
    pool, variables, tokens = pool_and_variables()
    size = jnp.array([[1.0, 1, 0, 0]] * 2)
    bias = size_bias(size, uses_size_bias=False, has_padding=True)
    pooled = pool.apply(variables, tokens, bias, has_mask=True)
    np.testing.assert_allclose(pooled, pool.apply(variables, tokens[:, :2], None, has_mask=False), atol=1e-6)


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224"])
def test_siglip_of_equal_patches_does_not_change_by_merging(name):
    """Two equal patches, one of which is merged into the other: the pooled features stay."""
    model = tc.create_model(name, tc.ToMe(), [9, 0], **{**SMALL, "depth": 2}, pos_embed="none")
    images = jnp.asarray(np.repeat(np.repeat(images_of(2)[:, ::4, ::8], 4, axis=1), 8, axis=2))
    variables = variables_of(model)
    dense = run(tc.condense(model), variables, images)
    np.testing.assert_allclose(run(model, variables, images), dense, atol=2e-5)


def test_token_avg_concatenates_class_token_and_mean():
    model = tc.create_model("deit_tiny_patch16_224", **SMALL, global_pool="token_avg")
    variables, images = variables_of(model), images_of(2)
    assert variables["params"]["head"]["kernel"].shape == (48, 7)
    tokens = model.apply(variables, images, method="features")
    pooled = jnp.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=-1)
    head = variables["params"]["head"]
    np.testing.assert_allclose(run(model, variables, images), pooled @ head["kernel"] + head["bias"], atol=1e-5)


def test_distillation_token_without_a_classifier():
    """`DeiTForImageClassification` of transformers."""
    model = tc.create_model("deit_tiny_distilled_patch16_224", **SMALL, dist_head=False)
    variables, images = variables_of(model), images_of(2)
    assert "head_dist" not in variables["params"]
    tokens = model.apply(variables, images, method="features")
    head = variables["params"]["head"]
    np.testing.assert_allclose(run(model, variables, images), tokens[:, 0] @ head["kernel"] + head["bias"], atol=1e-5)


def test_registers_without_positions():
    model = tc.create_model("deit_tiny_patch16_224", **SMALL, reg_tokens=2, no_embed_reg=True)
    variables = variables_of(model)
    params = variables["params"]
    assert params["pos_embed"].shape == (1, 37, 24)
    x = model.apply(variables, images_of(1), method="start").x[0]
    np.testing.assert_allclose(x[0], params["cls_token"][0, 0] + params["pos_embed"][0, 0], atol=1e-6)
    np.testing.assert_array_equal(x[1:3], params["reg_token"][0])


def test_remainder_of_the_image_is_ignored():
    model = tc.create_model("deit_tiny_patch16_224", **{**SMALL, "img_size": 26}, allow_remainder=True)
    assert model.grid == (6, 6)
    images = jnp.pad(images_of(1), ((0, 0), (0, 2), (0, 2), (0, 0)))
    variables = variables_of(model)
    other = images.at[:, 24:].set(9.0).at[:, :, 24:].set(-9.0)
    np.testing.assert_array_equal(run(model, variables, images), run(model, variables, other))
