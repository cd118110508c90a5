"""Parity of plain models with timm, and of GTP and LV-ViT with the official code, on deterministic weights."""

from operator import itemgetter

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tests import golden

LVVIT, LVVIT_ARRAYS = golden.read("lvvit")
TIMM, TIMM_ARRAYS = golden.read("timm")
GTP, GTP_ARRAYS = golden.read("gtp")
SCORES = {
    "DiagAttnMean": "diag_mean",
    "DiagAttnMax": "diag_max",
    "IMGAttnMean": "received_mean",
    "IMGAttnMax": "received_max",
    "MixedAttnMean": "mixed_mean",
    "MixedAttnMax": "mixed_max",
    "SumAttnMax": "sum_max",
    "CLSAttnMean": "cls_mean",
    "CLSAttnMax": "cls_max",
    "CosSimMean": "cosine_mean",
    "CosSimMax": "cosine_max",
}


@pytest.mark.parametrize("case", TIMM["cases"], ids=lambda case: case["name"])
def test_plain_model_equals_timm(case):
    side, overrides = case["base"]["img_size"], case["overrides"]
    images = golden.images(case["batch"], (side, side), case["seed"])
    if case["name"] == "dynamic_size_rect":
        # The positions of the square grid are resampled for its left half.
        overrides, images = {"img_size": (side, side // 2)}, images[:, :, : side // 2]
    model = tc.create_model("deit_tiny_patch16_224", **{**case["base"], **overrides})
    variables = tc.convert.from_torch(golden.state_dict(case["shapes"], case["seed"]), model)
    both = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    logits, tokens = both(variables, images)
    np.testing.assert_allclose(logits, TIMM_ARRAYS[f"{case['name']}/logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(tokens, TIMM_ARRAYS[f"{case['name']}/tokens"], rtol=0, atol=2e-5)


def official_case(case):
    """Return the model, variables and images of one case of the official code."""
    config = GTP["configs"][case["config"]]
    reducer = tc.GTP(
        score=SCORES[case.get("sel", "MixedAttnMax")],
        graph=case.get("graph", "Mixed").lower().replace("none", "mixed"),
        neighbors=case.get("M", 8),
        alpha=case.get("alpha", 0.1),
        attention_keep=case.get("theta", 1.0),
        propagation={"GraphProp": "graph"}.get(case.get("prop", "GraphProp"), case.get("prop", "").lower()),
        proportional_attention=case.get("scale", True),
    )
    pooled = {"class_token": False, "global_pool": "avg", "fc_norm": False} if config.get("cls") is False else {}
    model = tc.create_model(
        "deit_tiny_patch16_224",
        reducer,
        case["P"],
        img_size=config["img"],
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        num_classes=config["classes"],
        **pooled,
    )
    variables = tc.convert.from_torch(golden.state_dict(config["shapes"], config["seed"]), model)
    return model, variables, golden.images(config["batch"], model.img_size, config["seed"])


def _match_order(rows, reference):
    """Return `rows [T, D]` in the order of their nearest rows in `reference`; each row must be matched once."""
    nearest = np.abs(reference[:, None] - rows).max(-1).argmin(1)
    assert sorted(nearest) == list(range(len(rows)))
    return rows[nearest]


@pytest.mark.parametrize("case", GTP["cases"], ids=itemgetter("key"))
def test_gtp_equals_official_code(case):
    model, variables, images = official_case(case)
    both = jax.jit(lambda v, x: (model.apply(v, x), *model.apply(v, x, trace=True, method="features")))
    logits, tokens, trace = both(variables, images)
    np.testing.assert_allclose(logits, GTP_ARRAYS[f"{case['key']}/logits"], rtol=0, atol=2e-5)
    expected = GTP_ARRAYS[f"{case['key']}/tokens"]
    if case.get("prop") == "Mean":
        # The official code does not return indices of mean tokens, so its tokens are matched by their features.
        assert f"{case['key']}/kept0" not in GTP_ARRAYS
        tokens = np.stack([_match_order(*pair) for pair in zip(np.asarray(tokens), expected, strict=True)])
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=2e-5)
    for block in range(model.depth if case["P"] and case.get("prop") != "Mean" else 0):
        np.testing.assert_array_equal(trace.kept[block], GTP_ARRAYS[f"{case['key']}/kept{block}"])


@pytest.mark.parametrize(
    "case", LVVIT["cases"], ids=lambda case: f"{case['P']}-{case.get('graph', 'Mixed')}-{case.get('scale', True)}"
)
def test_lvvit_equals_official_code(case):
    reducer = tc.GTP(
        graph=case.get("graph", "Mixed").lower(),
        alpha=case.get("alpha", 0.1),
        proportional_attention=case.get("scale", True),
    )
    model = tc.create_model("lvvit_s", reducer, case["P"], **case["base"])
    variables = tc.convert.from_torch(golden.state_dict(case["shapes"], case["seed"]), model)
    images = golden.images(case["batch"], model.img_size, case["seed"])
    logits = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, LVVIT_ARRAYS[f"{case['key']}/logits"], rtol=0, atol=5e-6)
