"""Features of models: what their heads pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.tasks.features import feature_model, feature_variables, unit_length
from tests.convert import cases

SMALL = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)


def random_variables(model):
    return jax.tree.map(jnp.asarray, cases.random_variables(model))


def compute(model, variables, feature):
    featurizer = feature_model(model, feature)
    return np.asarray(featurizer.apply(feature_variables(featurizer, variables), IMAGES))


def test_pooled_features_are_what_the_classifier_reads():
    for name, changes in (
        ("deit_tiny_patch16_224", {}),
        ("vit", {"class_token": False, "global_pool": "avg", "fc_norm": True}),
        ("vit", {"class_token": False, "global_pool": "map"}),
        ("lvvit_s", {}),
    ):
        model = tc.create_model(name, tc.ToMe(), 3, **SMALL, **changes)
        variables = random_variables(model)
        features = compute(model, variables, "pooled")
        assert features.shape == (2, 16)
        if name != "lvvit_s":
            head = variables["params"]["head"]
            logits = features @ head["kernel"] + head["bias"]
            np.testing.assert_allclose(logits, model.apply(variables, IMAGES), atol=2e-5)


def test_token_and_mean_features_follow_the_final_norm():
    model = tc.create_model("deit_tiny_patch16_224", tc.GTP(), 2, **SMALL)
    variables = random_variables(model)
    tokens = np.asarray(model.apply(variables, IMAGES, method="features"))
    np.testing.assert_allclose(compute(model, variables, "token"), tokens[:, 0], atol=1e-5)
    np.testing.assert_allclose(compute(model, variables, "token"), compute(model, variables, "pooled"), atol=1e-6)
    np.testing.assert_allclose(compute(model, variables, "avg"), tokens[:, 1:].mean(1), atol=1e-5)


def test_features_that_a_model_lacks_are_errors():
    model = tc.create_model("vit", **SMALL, class_token=False, global_pool="avg")
    with pytest.raises(tc.InputError, match="--feature token requires a model with a class token: use --feature avg"):
        feature_model(model, "token")
    with pytest.raises(tc.InputError, match="--feature avg requires a model whose head pools tokens"):
        feature_model(tc.create_model("lvvit_s", **SMALL), "avg")


def test_unit_length_is_finite_for_any_vector():
    x = np.array([[3, 4, 0], [0, 0, 0], [np.nan, 1, 1], [np.inf, 1, 1], [1e30, 1e30, 0], [1e-30, 0, 0]], np.float32)
    actual = np.asarray(jax.jit(unit_length)(jnp.asarray(x)))
    half = np.sqrt(0.5)
    expected = [[0.6, 0.8, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [half, half, 0], [1, 0, 0]]
    np.testing.assert_allclose(actual, expected, atol=1e-6)
