"""Creation of models: overrides, reducers, and configurations."""

import json
from functools import partial

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tests.models.builders import images_of, run, small, variables_of
from tests.switches import SWITCHES


@pytest.mark.parametrize("reducer", [None, *SWITCHES])
def test_config_survives_json(reducer):
    model = small(reducer, [3, 0, 2], img_size=(16, 24), dtype="bfloat16", init_values=1e-4)
    assert models.from_config(json.loads(json.dumps(models.to_config(model)))) == model


def test_config_of_lvvit_survives_json():
    model = tc.create_model("lvvit_s", tc.GTP(), 8, stem_channels=128)
    assert models.from_config(json.loads(json.dumps(models.to_config(model)))) == model
    assert type(model) is models.LVViT


def test_without_classes_logits_are_pooled_features():
    with_head, without_head = small(depth=2), small(depth=2, num_classes=0)
    variables = variables_of(with_head)
    images = images_of(2)
    params = {key: value for key, value in variables["params"].items() if key != "head"}
    pooled = run(without_head, {"params": params}, images)
    assert pooled.shape == (2, 24)
    expected = jax.jit(partial(with_head.apply, method="features"))(variables, images)[:, 0]
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2e-6)
    assert without_head.cost().head == 0


def test_quick_gelu_differs_from_gelu():
    variables, images = variables_of(small(depth=2)), images_of(2)
    quick = run(small(depth=2, act_layer="quick_gelu"), variables, images)
    assert float(abs(quick - run(small(depth=2), variables, images)).max()) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (("deit_smal_patch16_224",), {}, "unknown model 'deit_smal_patch16_224': did you mean 'deit_small_patch16_224'?"),
        (("lvvit_s",), {"global_pool": "avg"}, "global_pool='avg': must be 'token' for lvvit_s"),
        (("lvvit_s",), {"stem_channels": 0}, "stem_channels=0: must be > 0"),
        (("lvvit_s",), {"patch_size": 7, "img_size": 28}, "patch_size=7: must be even; the stem has a convolution of stride 2"),
        (("deit_tiny_patch16_224",), {"img_size": "224"}, "img_size='224': must be an integer"),
        (("deit_tiny_patch16_224",), {"img_size": (224, 224, 3)}, "img_size=(224, 224, 3): must be an integer or (height, width)"),
        (("deit_tiny_patch16_224",), {"num_classes": 10.5}, "num_classes=10.5: must be an integer"),
        (("lvvit_s",), {"img_size": 200}, "img_size=200: must be a positive multiple of patch_size=16; use 192"),
        (("deit_tiny_patch16_224",), {"stem_channels": 128}, "unknown ViT override 'stem_channels': did you mean 'in_chans'?"),
        (("deit_tiny_patch16_224",), {"act_layer": "gelu_tan"}, "unknown act_layer 'gelu_tan': did you mean 'gelu_tanh'?"),
        (("deit_tiny_patch16_224",), {"num_classes": -1}, "num_classes=-1: must be >= 0"),
        (("deit_tiny_patch16_224",), {"embed_dims": 3}, "unknown ViT override 'embed_dims': did you mean 'embed_dim'?"),
        (("deit_tiny_patch16_224",), {"img_size": 225}, "img_size=225: must be a positive multiple of patch_size=16; use 224"),
        (("deit_tiny_patch16_224",), {"embed_dim": 191}, "embed_dim=191: must be a positive multiple of num_heads=3; use 192"),
        (("deit_tiny_patch16_224",), {"global_pool": "max"}, "unknown global_pool 'max': did you mean 'map'?"),
        (("deit_tiny_patch16_224",), {"class_token": False}, "global_pool='token' requires class_token=True: use global_pool='avg'"),
        (("deit_tiny_patch16_224",), {"dtype": "bfloat"}, "unknown dtype 'bfloat': did you mean 'bfloat16'?"),
        (("deit_tiny_patch16_224",), {"distilled": True, "global_pool": "avg"}, "distilled=True cannot be combined with global_pool='avg': use global_pool='token'"),
        (("deit_tiny_patch16_224", tc.GTP(score="cls_max"), 1), {"class_token": False, "global_pool": "avg"}, "reducer=GTP(score='cls_max') requires class_token=True: set score='mixed_max'"),
        (("deit_tiny_patch16_224", "gtp", 1), {}, "reducer='gtp': must be a Reducer; use tc.GTP(), for example"),
        (("deit_tiny_patch16_224", tc.GTP(), 17), {}, "schedule=17: must be <= 16; 17 tokens in each of 12 blocks are 204 of 196 patch tokens"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_rejected(arguments, overrides, message):
    with pytest.raises(tc.InputError) as error:
        tc.create_model(*arguments, **overrides)
    assert str(error.value) == message


def test_condense_changes_only_the_reducer():
    plain = small(None, 0, qk_norm=True)
    model = models.condense(plain, tc.TCViT(), 3)
    assert model == small(tc.TCViT(), 3, qk_norm=True)
    assert models.condense(model) == plain


def test_numpy_integers_are_accepted():
    assert tc.create_model("deit_tiny_patch16_224", img_size=np.int64(32), depth=np.int32(2)).img_size == (32, 32)
