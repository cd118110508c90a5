"""Names of transformers and of timm's Eva models: each table is read and written."""

import re

import ml_dtypes
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.convert import names
from tcvit_jax.convert.formats import TIMM, fitting_prefixes
from tcvit_jax.convert.mapping import convert, to_torch
from tcvit_jax.models.parameters import BLOCK
from tests import golden
from tests.convert import cases

CASES = golden.read("families")[0]["cases"]
# The family of `names.FAMILIES` of each case, and the parts of the first layer of its MLP.
FAMILY_OF_CASE = {
    "hf/vit": ("vit", ()), "hf/deit": ("deit_with_teacher", ()), "hf/dinov2": ("dinov2", ()),
    "hf/dinov2_swiglu": ("dinov2_gated", ()), "hf/dinov2_registers": ("dinov2", ()), "hf/clip": ("clip", ()),
    "hf/siglip": ("siglip", ()), "hf/dinov3": ("dinov3_vit", ("value",)),
    "hf/dinov3_gated": ("dinov3_vit_gated", ("gate", "value")),
}  # fmt: skip


def canonical_tensors(tensors, prefix=""):
    """Return tensors by the names of the parameter table."""
    return {
        target: source.assemble([tensors[name] for name in source.names])
        for target, source in TIMM.sources(tensors, 3, prefix)
    }


def written(tensors, family, mlp_parts):
    parts = names.split(tensors, separate_qkv=True, mlp_parts=mlp_parts, joins_pooling=True)
    renamed, others = names.rename(parts, names.FAMILIES[family])
    assert others == []
    return renamed


def in_memory(family, tensors):
    """Return tensors with the names that version 5 of transformers has in memory."""
    by_name = {row.name: row.memory or row.name for row in names.FAMILIES[family]}
    renamed = {}
    for name, tensor in tensors.items():
        block = re.search(r"layers?\.(\d+)\.", name)
        number = block[1] if block else ""
        template = name.replace(f".{number}.", f".{BLOCK}.", 1) if block else name
        if template.startswith(f"layer.{number}."):
            template = template.replace(f"layer.{number}.", f"layer.{BLOCK}.", 1)
        renamed[by_name[template].replace(BLOCK, number)] = tensor
    return renamed


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["key"] in FAMILY_OF_CASE], ids=lambda case: case["key"]
)
def test_names_of_transformers_are_read_and_written(case):
    family, mlp_parts = FAMILY_OF_CASE[case["key"]]
    tensors = golden.state_dict(case["shapes"], case["seed"])
    (prefix,) = fitting_prefixes(tensors, {"patch_embed.proj.weight"}, TIMM, 3)
    canonical = canonical_tensors(tensors, prefix)
    stored = {name.removeprefix(prefix): value for name, value in tensors.items() if "mask_token" not in name}
    exported = written(canonical, family, mlp_parts)
    assert exported.keys() == stored.keys()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(exported[name], tensor)
    # Files of version 5 may have the names of its memory.
    for name, tensor in canonical_tensors(in_memory(family, stored)).items():
        np.testing.assert_array_equal(tensor, canonical[name])


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["key"].startswith("timm/")], ids=lambda case: case["key"]
)
def test_names_of_timm_are_those_of_the_tables(case):
    """The names of parts and of LayerScale differ."""
    tensors = golden.state_dict(case["shapes"], case["seed"])
    canonical = canonical_tensors(tensors)
    is_fused = all("q_proj" not in name for name in tensors)
    gated = ("gate", "value") if any("fc1_g" in name for name in tensors) else ()
    parts = names.split(canonical, separate_qkv=not is_fused, mlp_parts=gated)
    exported, others = names.rename(parts, names.TIMM_PARTS + (names.EVA if "dinov3" in case["key"] else ()))
    exported |= {name: parts[name] for name in others}
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(exported[name], tensor)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["key"].startswith("timm/")], ids=lambda case: case["key"]
)
def test_models_of_timm_are_read_and_written(case):
    model = tc.create_model(case["model"], **case["overrides"])
    tensors = golden.state_dict(case["shapes"], case["seed"])
    conversion = convert(tensors, model)
    assert conversion.mapped == tuple(sorted(tensors))
    exported = tc.convert.to_torch(conversion.variables, model)
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(exported[name], tensor)


def test_tensors_that_only_some_models_have_are_ignored():
    """Files for attention pooling are also those of models with the mean of the tokens, and registers can be none."""
    case = next(case for case in CASES if "siglip_gap" in case["key"])
    model = tc.create_model(case["model"], **case["overrides"])
    tensors = golden.state_dict(case["shapes"], case["seed"])
    extra = {
        "attn_pool.latent": np.zeros((1, 1, 48)),
        "attn_pool.kv.bias": np.zeros(96),
        "reg_token": np.zeros((1, 0, 48)),
    }
    assert convert(tensors | extra, model).ignored == tuple(sorted(extra))
    assert convert(tensors | {"other.a": np.zeros(1)}, model, ignored=[r"other\..*"]).ignored == ("other.a",)
    with pytest.raises(tc.InputError, match="reg_token: unexpected"):
        convert(tensors | {"reg_token": np.zeros((1, 4, 48))}, model)


def test_prefix_in_memory_of_dinov3():
    """Its blocks are in a module `model`, and its other tensors are not, unless another module contains all of them."""
    case = next(case for case in CASES if case["key"] == "hf/dinov3")
    tensors = golden.state_dict(case["shapes"], case["seed"])
    memory = {re.sub(r"^layer\.", "model.layer.", name): value for name, value in tensors.items()}
    expected = set(canonical_tensors(tensors))
    for prefix in ("", "model.", "backbone.model."):
        assert fitting_prefixes([f"{prefix}{name}" for name in memory], expected, TIMM, 3) == [prefix]
        assert fitting_prefixes([f"{prefix}{name}" for name in tensors], expected, TIMM, 3) == [prefix]


@pytest.mark.parametrize("family", names.FAMILIES)
def test_tables_are_bijective(family):
    rows = names.FAMILIES[family]
    assert len({row.target for row in rows}) == len({row.name for row in rows}) == len(rows)
    for row in rows:
        for name in (row.name, row.memory or row.name):
            located = names.row_of(name.replace(BLOCK, "12"))
            assert located is not None
            assert located[0].target == row.target
            assert located[1] == ("12" if BLOCK in row.name else "")


def test_bias_without_keys_gives_two_tensors():
    rows = {f"layer.0.attention.{part}_proj.bias": np.full(2, index) for index, part in enumerate("qkv")}
    assert list(canonical_tensors(rows)) == ["blocks.0.attn.qkv.bias"]
    del rows["layer.0.attention.k_proj.bias"]
    without_keys = canonical_tensors(rows)
    assert {name: value.tolist() for name, value in without_keys.items()} == {
        "blocks.0.attn.q_bias": [0, 0], "blocks.0.attn.v_bias": [2, 2],
    }  # fmt: skip
    # The official code of DINOv3 stores zeros for the keys, and a mask.
    official = {"blocks.0.attn.qkv.bias": np.repeat(np.arange(3), 2), "blocks.0.attn.qkv.bias_mask": np.zeros(6)}
    for name, value in canonical_tensors(official).items():
        np.testing.assert_array_equal(value, without_keys[name])


def test_layer_without_gate_is_the_first_layer():
    gate, value = np.zeros((3, 2)), np.ones((3, 2))
    both = {"layer.1.mlp.gate_proj.weight": gate, "layer.1.mlp.up_proj.weight": value}
    fc1 = canonical_tensors(both)["blocks.1.mlp.fc1.weight"]
    np.testing.assert_array_equal(fc1, np.concatenate([gate, value]))
    del both["layer.1.mlp.gate_proj.weight"]
    np.testing.assert_array_equal(canonical_tensors(both)["blocks.1.mlp.fc1.weight"], value)


def test_packed_attention_pooling_is_divided():
    weight = np.arange(12).reshape(6, 2)
    ((query, source), (key_value, other)) = TIMM.sources(["head.attention.in_proj_weight"], 1)
    assert (query, key_value) == ("attn_pool.q.weight", "attn_pool.kv.weight")
    assert (source.shape([(6, 2)]), other.shape([(6, 2)])) == ((2, 2), (4, 2))
    np.testing.assert_array_equal(source.assemble([weight]), weight[:2])
    np.testing.assert_array_equal(other.assemble([weight]), weight[2:])
    assert source.shape([()]) == ()


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.mask_token", "embeddings.position_ids", "pooler.dense.weight", "decoder.decoder_norm.bias",
        "text_model.head.probe", "text_projection.weight", "logit_scale", "logit_bias", "rope_embed.periods",
        "blocks.0.attn.rope.freqs_cos", "rope_embeddings.inv_freq", "blocks.0.attn.qkv.bias_mask",
    ],
)  # fmt: skip
def test_tensors_of_other_modules_are_ignored(name):
    assert list(TIMM.sources([name, "cls_token"], 1)) == [("cls_token", next(TIMM.sources(["cls_token"], 1))[1])]
    assert [target for target, _ in TIMM.sources([f"module.{name}"], 1, "module.")] == []


def test_attention_pooling_is_left_out_only_for_a_mean_without_a_class_token():
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 0}
    pooled = tc.create_model("vit", **sizes, class_token=False, global_pool="map", fc_norm=False)
    tensors = to_torch(cases.random_variables(pooled), pooled)
    count = sum(name.startswith("attn_pool.") for name in tensors)
    average = tc.create_model("vit", **sizes, class_token=False, global_pool="avg", fc_norm=False)
    conversion = convert(tensors, average)
    assert conversion.notes == (f"{count} tensors of attention pooling were not used",)
    assert len(conversion.ignored) == count
    with_class = tc.create_model("vit", **sizes, global_pool="avg", fc_norm=False)
    class_tensors = to_torch(cases.random_variables(with_class), with_class)
    pooling = {name: tensor for name, tensor in tensors.items() if name.startswith("attn_pool.")}
    with pytest.raises(tc.InputError, match=r"attn_pool.latent: unexpected"):
        convert(class_tensors | pooling, with_class)


def test_tensors_without_a_variable_are_counted():
    others = ["pooler.dense.weight", "decoder.norm.bias", "text_model.final_layer_norm.weight", "logit_scale"]
    conversion = convert(cases.weights() | {name: np.zeros(3, np.float32) for name in others}, cases.model("deit"))
    assert conversion.ignored == tuple(sorted(others))


def test_periods_of_rotary_positions_must_be_those_of_the_model():
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0}
    rotary = tc.create_model("vit", **sizes, pos_embed="none", rope_type="dinov3", rope_temperature=100.0)
    tensors = to_torch(cases.random_variables(rotary), rotary)
    periods = (100.0 ** (np.arange(4) / 4)).astype(ml_dtypes.bfloat16)
    conversion = convert(tensors | {"rope_embed.periods": periods}, rotary)
    assert conversion.ignored == ("rope_embed.periods",)
    for wrong in (periods * ml_dtypes.bfloat16(1.1), 50.0 ** (np.arange(4) / 4), np.full(4, np.nan)):
        with pytest.raises(tc.InputError, match=r"rope_embed.periods: expected the periods of rope_temperature=100"):
            convert(tensors | {"rope_embed.periods": wrong}, rotary)
    with pytest.raises(tc.InputError, match=r"rope_embed.periods: expected shape \(4,\), got \(3,\)"):
        convert(tensors | {"rope_embed.periods": periods[:3]}, rotary)
