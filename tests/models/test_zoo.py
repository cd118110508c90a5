"""Names, overrides, and the way a model is written down."""

import json

import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tests.models.test_vit import small
from tests.switches import SWITCHES


def test_list_models_takes_a_pattern():
    assert tc.list_models() == tc.list_models("deit*")
    assert tc.list_models("*small*") == ["deit_small_distilled_patch16_224", "deit_small_patch16_224"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("deit_tiny_patch16_224", 5717416),
        ("deit_small_patch16_224", 22050664),
        ("deit_base_patch16_224", 86567656),
        ("deit_tiny_distilled_patch16_224", 5910800),
        ("deit_small_distilled_patch16_224", 22436432),
        ("deit_base_distilled_patch16_224", 87338192),
    ],
)
def test_parameter_counts_are_timm_s(name, parameters):
    assert models.count_parameters(tc.create_model(name)) == parameters


@pytest.mark.parametrize("reducer", [None, *SWITCHES])
def test_config_rebuilds_the_model_through_json(reducer):
    model = small(reducer, [3, 0, 2], img_size=(16, 24), dtype="bfloat16", init_values=1e-4)
    assert models.from_config(json.loads(json.dumps(models.to_config(model)))) == model


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (("deit_smal_patch16_224",), {}, "unknown model 'deit_smal_patch16_224': did you mean 'deit_small_patch16_224'?"),
        (("deit_tiny_patch16_224",), {"embed_dims": 3}, "unknown override of 'deit_tiny_patch16_224': 'embed_dims': did you mean 'embed_dim'?"),
        (("deit_tiny_patch16_224",), {"img_size": 225}, "img_size=225 is not a multiple of patch_size=16: use 224"),
        (("deit_tiny_patch16_224",), {"embed_dim": 191}, "embed_dim=191 is not a multiple of num_heads=3: use 192"),
        (("deit_tiny_patch16_224",), {"global_pool": "mean"}, "unknown global_pool 'mean': choose one of: avg, token"),
        (("deit_tiny_patch16_224",), {"class_token": False}, "global_pool='token' reads the class token, and class_token=False: use global_pool='avg'"),
        (("deit_tiny_patch16_224",), {"dtype": "bfloat"}, "unknown dtype 'bfloat': did you mean 'bfloat16'?"),
        (("deit_tiny_patch16_224",), {"distilled": True, "global_pool": "avg"}, "global_pool='avg' has no place for a distillation token: use 'token'"),
        (("deit_tiny_patch16_224", tc.GTP(score="cls_max"), 1), {"class_token": False, "global_pool": "avg"}, "class_token=False, and score='cls_max' reads class attention: use 'mixed_max'"),
        (("deit_tiny_patch16_224", "gtp", 1), {}, "reducer='gtp' is not a reducer: use tc.GTP(), for example"),
        (("deit_tiny_patch16_224", tc.GTP(), 17), {}, "schedule=17 removes 204 of 196 patch tokens in 12 blocks: at most 16 per block leave one"),
    ],
)  # fmt: skip
def test_mistakes_name_the_nearest_right_thing(arguments, overrides, message):
    with pytest.raises(tc.InputError) as caught:
        tc.create_model(*arguments, **overrides)
    assert str(caught.value) == message


def test_condense_exchanges_the_reducer_and_nothing_else():
    plain = small(None, 0, qk_norm=True)
    model = models.condense(plain, tc.TCViT(), 3)
    assert model == small(tc.TCViT(), 3, qk_norm=True)
    assert models.condense(model) == plain
