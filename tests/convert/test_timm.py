"""State dicts in timm's names: all of it, or an error that says what is wrong."""

import numpy as np
import pytest

import tcvit_jax as tc
from tests import golden

CASE = next(case for case in golden.read("timm")[0]["cases"] if case["name"] == "deit")
MODEL = tc.create_model("deit_tiny_patch16_224", **CASE["base"])


def weights():
    return golden.state_dict(CASE["shapes"], CASE["seed"])


def test_every_tensor_is_used_once():
    given = weights()
    params = tc.convert.from_torch(given, MODEL)["params"]
    assert params["blocks_1"]["attn"]["qkv"]["kernel"].shape == (48, 144)
    np.testing.assert_array_equal(params["blocks_1"]["attn"]["qkv"]["kernel"], given["blocks.1.attn.qkv.weight"].T)
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"][2, 5, 1], given["patch_embed.proj.weight"][:, 1, 2, 5]
    )
    np.testing.assert_array_equal(params["norm"]["scale"], given["norm.weight"])
    np.testing.assert_array_equal(params["pos_embed"], given["pos_embed"])


def test_half_precision_is_widened():
    params = tc.convert.from_torch({key: value.astype(np.float16) for key, value in weights().items()}, MODEL)["params"]
    assert params["head"]["kernel"].dtype == np.float32


def test_missing_and_superfluous_names_are_reported_together():
    given = weights()
    given["blocks.0.attn.qkv.weights"] = given.pop("blocks.0.attn.qkv.weight")
    given["head_dist.weight"] = given["head.weight"]
    with pytest.raises(tc.InputError) as caught:
        tc.convert.from_torch(given, MODEL)
    message = str(caught.value)
    assert "blocks.0.attn.qkv.weight is missing (there is blocks.0.attn.qkv.weights)" in message
    assert "head_dist.weight has no place in the model" in message
    assert "\n" not in message


def test_another_shape_is_reported():
    given = weights()
    given["pos_embed"] = given["pos_embed"][:, :50]
    with pytest.raises(
        tc.InputError, match=r"pos_embed has shape \(1, 50, 48\) in our layout, the model's is \(1, 65, 48\)"
    ):
        tc.convert.from_torch(given, MODEL)


def test_a_long_list_is_cut():
    with pytest.raises(tc.InputError, match=r"is missing; .*; and \d+ more$"):
        tc.convert.from_torch({}, MODEL)
