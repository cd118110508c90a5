"""Export to the form of transformers, which is the inverse of reading."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import tcvit_jax as tc
from tcvit_jax import checkpoint, models
from tcvit_jax.convert.export import to_transformers
from tcvit_jax.convert.families import export
from tcvit_jax.convert.mapping import convert, to_tensors
from tcvit_jax.convert.transformers import read_config
from tests import golden
from tests.convert.cases import random_variables

CASES = {case["key"]: case for case in golden.read("families")[0]["cases"] if case["key"].startswith("hf/")}
PATH = Path("config.json")
CLASSES = {"classifier.weight": (5, 48), "classifier.bias": (5,)}
# Changes of the golden configurations, and of their tensors: a removed tensor has no shape.
VARIANTS = {
    "hf/vit": ({"image_size": [32, 64], "hidden_act": "relu"}, {"vit.embeddings.position_embeddings": (1, 9, 48)}),
    "hf/deit": (
        {"architectures": ["DeiTForImageClassification"]},
        {**dict.fromkeys(f"{head}.{part}" for head in ("cls_classifier", "distillation_classifier") for part in ("weight", "bias")),
         "classifier.weight": (7, 48), "classifier.bias": (7,)},
    ),
    "hf/dinov2": ({"id2label": {str(i): f"c{i}" for i in range(5)}, "layerscale_value": 0.5},
                  {"classifier.weight": (5, 96), "classifier.bias": (5,)}),
    "hf/dinov2_registers": ({"num_register_tokens": 1}, {"embeddings.register_tokens": (1, 1, 48)}),
    "hf/clip": ({"projection_dim": 9}, {"visual_projection.weight": (9, 48)}),
    "hf/siglip": ({"image_size": 70, "hidden_act": "quick_gelu"}, {}),
    "hf/dinov3": ({"num_register_tokens": 0, "rope_theta": 50.0}, {"embeddings.register_tokens": (1, 0, 48)}),
}  # fmt: skip


def tensors_of(case, shapes):
    merged = {name: shape for name, shape in {**case["shapes"], **shapes}.items() if shape is not None}
    return golden.state_dict(merged, case["seed"])


def read(config, tensors):
    """Return the description, the model and the variables of a directory."""
    description = read_config(config, PATH, {name: tensor.shape for name, tensor in tensors.items()})
    model = tc.create_model("vit", **description.overrides)
    conversion = convert(tensors, model, resampling=description.resampling, ignored=description.ignored)
    return description, model, conversion.variables


def assert_round_trip(config, tensors, prefix=""):
    description, model, variables = read(config, tensors)
    result = export(model, to_tensors(variables, model), "runs/x", description.model_type, description.labels)
    expected = {
        name if name.startswith(("classifier", "visual_projection")) else f"{prefix}{name}": each
        for name, each in tensors.items()
    }
    assert result.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert result.tensors[name].flags.c_contiguous
        np.testing.assert_array_equal(result.tensors[name], np.zeros_like(tensor) if "mask_token" in name else tensor)
    again = read_config(result.config, PATH, {name: tensor.shape for name, tensor in result.tensors.items()})
    assert again == description
    return result


@pytest.mark.parametrize("key", CASES)
def test_reading_and_writing_is_the_identity(key):
    case = CASES[key]
    # Files of CLIP and SigLIP have the prefix, which version 5 of transformers removes.
    prefix = "vision_model." if key in ("hf/clip", "hf/siglip") else ""
    result = assert_round_trip(case["config"], tensors_of(case, {}), prefix)
    assert result.config["architectures"] == case["config"]["architectures"]
    assert result.config["model_type"] == case["config"]["model_type"]
    if key in VARIANTS:
        changes, shapes = VARIANTS[key]
        prefix = "dinov2." if key == "hf/dinov2" else prefix
        assert_round_trip(copy.deepcopy(case["config"]) | changes, tensors_of(case, shapes), prefix)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model_type", ["vit", "dinov2", "dinov2_with_registers", "dinov3_vit"])
def test_random_sizes(model_type, seed):
    """Each model is found by its fields alone."""
    rng = np.random.default_rng(seed)
    heads, side = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    gated = bool(rng.integers(2)) and model_type != "vit"
    fields = {
        "img_size": (side * 4, int(rng.integers(1, 4)) * 4), "patch_size": 4, "in_chans": int(rng.integers(1, 5)),
        "embed_dim": heads * 8, "depth": int(rng.integers(1, 3)), "num_heads": heads, "num_classes": 0,
        "mlp_hidden": int(rng.integers(1, 9)) * 8, "norm_eps": float(rng.choice([1e-12, 1e-6, 1e-5])),
        "act_layer": "silu" if gated else str(rng.choice(["gelu", "gelu_tanh", "quick_gelu", "relu"])),
        "qkv_bias": bool(rng.integers(2)),
    }  # fmt: skip
    if model_type != "vit":
        fields |= {"init_values": 1.0, "mlp_layer": str(rng.choice(["swiglu", "swiglu_packed"])) if gated else "mlp"}
    if model_type in ("dinov2_with_registers", "dinov3_vit"):
        fields |= {"reg_tokens": int(rng.integers(1, 5)), "no_embed_reg": True}
    if model_type == "dinov3_vit":
        fields |= {
            "pos_embed": "none", "rope_type": "dinov3", "rope_temperature": 50.0, "key_bias": bool(rng.integers(2)),
            "proj_bias": bool(rng.integers(2)), "mlp_bias": bool(rng.integers(2)),
        }  # fmt: skip
    model = tc.create_model("vit", **fields)
    variables = random_variables(model)
    result = export(model, to_tensors(variables, model), "runs/x")
    assert result.config["model_type"] == model_type
    _, _, again = read(result.config, result.tensors)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize("key", ["hf/clip", "hf/siglip"])
def test_classifiers_of_models_with_text(key):
    """Their classifiers are part of the model with both encoders."""
    shapes = CLASSES | {name: None for name in CASES[key]["shapes"] if name.startswith("head.")}
    labels = {str(index): f"class {index}" for index in range(5)}
    config = CASES[key]["config"] | {"id2label": labels}
    description, model, variables = read(config, tensors_of(CASES[key], shapes))
    result = export(model, to_tensors(variables, model), "runs/x", description.model_type, description.labels)
    name = key.removeprefix("hf/")
    assert result.config["model_type"] == name
    assert result.config["architectures"][0].endswith("ForImageClassification")
    assert result.config["id2label"] == labels
    again = read_config(result.config, PATH, {name: tensor.shape for name, tensor in result.tensors.items()})
    assert again == description


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}, "global_pool='avg': must be 'token' for model_type='vit'"),
        ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": True, "num_classes": 0}, "fc_norm=True: must be False for"),
        ("vit_tiny_patch16_224", {"qk_norm": True}, "qk_norm=True: must be False for model_type='vit'"),
        ("vit_tiny_patch16_224", {"reg_tokens": 2, "num_classes": 0}, "init_values=None: must be 1.0 for model_type='dinov2_with_registers'"),
        ("vit_small_patch14_dinov2", {"num_classes": 3}, "global_pool='token': must be 'token_avg' for model_type='dinov2'"),
        ("eva02_small_patch14_224", {}, "rope_type='cat': must be '' for model_type='dinov2'"),
        ("lvvit_s", {}, "lvvit_s has a patch embedding that no model of transformers has"),
    ],
)  # fmt: skip
def test_models_that_no_family_represents_are_errors(name, changes, message):
    size = {"img_size": 28, "patch_size": 14} if "patch14" in name else {"img_size": 32}
    model = tc.create_model(name, depth=1, embed_dim=48, num_heads=4, **size, **changes)
    with pytest.raises(tc.InputError) as error:
        export(model, to_tensors(random_variables(model), model), "runs/x")
    assert str(error.value).startswith(f"runs/x: {message}")


def test_classifier_of_the_class_token_is_no_projection():
    """A classifier of CLIP reads the mean of the patch tokens in transformers, and a projection the class token."""
    _, model, variables = read(CASES["hf/clip"]["config"] | {"projection_dim": 9},
                               tensors_of(CASES["hf/clip"], {"visual_projection.weight": (9, 48)}))  # fmt: skip
    projection = variables["params"]["head"]
    new, trained = jax.tree.map(np.zeros_like, projection), {**projection, "bias": np.ones(9, np.float32)}
    for head, labels in ((new, None), (trained, None), (projection, [f"class {index}" for index in range(9)])):
        tensors = to_tensors({"params": {**variables["params"], "head": head}}, model)
        with pytest.raises(
            tc.InputError, match="global_pool='token': must be 'avg' for model_type='clip_vision_model'; no model of"
        ):
            export(model, tensors, "runs/x", "clip_vision_model", labels)


def test_model_of_timm_without_position_of_the_class_token():
    """The family has one, which is zero."""
    model = tc.create_model(
        "vit_small_patch14_reg4_dinov2", depth=1, embed_dim=48, num_heads=3, img_size=28, mlp_ratio=2.0
    )
    tensors = to_tensors(random_variables(model), model)
    result = export(model, tensors, "runs/x")
    assert result.config["model_type"] == "dinov2_with_registers"
    positions = result.tensors["embeddings.position_embeddings"]
    assert not positions[:, 0].any()
    np.testing.assert_array_equal(positions[:, 1:], tensors["pos_embed"])


@pytest.mark.parametrize(("dtype", "stored"), [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32")])
def test_directory(tmp_path, dtype, stored):
    """Half precision of the source is that of the export, as long as no value changes."""
    case = CASES["hf/dinov3_gated"]
    half = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    tensors = {name: tensor.astype(half) for name, tensor in tensors_of(case, {}).items()}
    _, model, variables = read(case["config"], tensors)
    meta = {
        "model": models.to_config(model), "classes": None, "preprocessing": asdict(models.zoo.Preprocessing()),
        "provenance": {"model_type": "dinov3_vit", "dtype": dtype},
    }  # fmt: skip
    checkpoint.save(tmp_path / "ckpt", variables, meta)
    message = to_transformers(tmp_path / "ckpt", tmp_path / "out")
    assert message.endswith(f"{len(tensors)} tensors of DINOv3ViTModel, {dtype}")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == dtype
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if "mask_token" not in name:
            assert written[name].dtype == half
            np.testing.assert_array_equal(written[name], tensor)
    content = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}
    assert header["norm.weight"]["dtype"] == stored
    with pytest.raises(tc.InputError, match="out: "):
        to_transformers(tmp_path / "ckpt", tmp_path / "out")
    if dtype != "float32":
        # Values that were trained on are not rounded.
        variables["params"]["norm"]["scale"] = variables["params"]["norm"]["scale"] * np.float32(1 + 2**-20)
        checkpoint.save(tmp_path / "trained", variables, meta)
        assert to_transformers(tmp_path / "trained", tmp_path / "float32").endswith(", float32")
