"""Configs of transformers: fields of the model, and one error for each field that cannot be represented."""

import copy
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax.convert.fields import FIELDS
from tcvit_jax.convert.transformers import read_config
from tests import golden

CASES = {case["key"]: case for case in golden.read("families")[0]["cases"] if case["key"].startswith("hf/")}
PATH = Path("model/config.json")
COMMON = {
    "img_size": (64, 64), "patch_size": 16, "in_chans": 3, "embed_dim": 48, "depth": 3, "num_heads": 4,
    "num_classes": 0, "global_pool": "token", "act_layer": "gelu", "mlp_hidden": 144, "qkv_bias": True,
}  # fmt: skip
DINOV3 = {
    "norm_eps": 1e-5, "qkv_bias": True, "key_bias": False, "proj_bias": True, "mlp_bias": True, "mlp_layer": "mlp",
    "init_values": 1.0, "reg_tokens": 4, "pos_embed": "none", "rope_type": "dinov3", "rope_temperature": 100.0,
}  # fmt: skip
EXPECTED = {
    "hf/vit": {"norm_eps": 1e-12, "num_classes": 7},
    "hf/deit": {"norm_eps": 1e-12, "num_classes": 7, "distilled": True, "dist_head": True},
    "hf/dinov2": {"norm_eps": 1e-6, "init_values": 1.0},
    "hf/dinov2_swiglu": {
        "norm_eps": 1e-6, "init_values": 1.0, "mlp_hidden": 96, "mlp_layer": "swiglu_packed", "act_layer": "silu",
    },
    "hf/dinov2_registers": {"norm_eps": 1e-6, "init_values": 1.0, "reg_tokens": 4, "no_embed_reg": True},
    "hf/clip": {"norm_eps": 1e-5, "act_layer": "quick_gelu", "pre_norm": True},
    "hf/siglip": {
        "norm_eps": 1e-6, "act_layer": "gelu_tanh", "class_token": False, "global_pool": "map", "fc_norm": False,
    },
    "hf/dinov3": DINOV3,
    "hf/dinov3_gated": {**DINOV3, "mlp_layer": "swiglu", "act_layer": "silu"},
}  # fmt: skip


def read(key, changes=None, shapes=None, removed=()):
    """Read the config of a case with some changes. Names of nested fields have dots."""
    config = copy.deepcopy(CASES[key]["config"])
    config = {name: value for name, value in config.items() if name not in removed} | (changes or {})
    return read_config(config, PATH, {**CASES[key]["shapes"], **(shapes or {})})


def message_of(key, changes=None, shapes=None):
    with pytest.raises(tc.InputError) as error:
        read(key, changes, shapes)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{PATH}: ")


@pytest.mark.parametrize("key", CASES)
def test_configs_of_all_families(key):
    description = read(key)
    expected = COMMON | EXPECTED[key]
    if "dinov3" in key or "siglip" in key or "clip" in key:
        expected = {name: value for name, value in expected.items() if name != "qkv_bias" or name in EXPECTED[key]}
    assert description.overrides == expected
    assert description.image_size == (64, 64)
    assert (description.labels, description.ignored, description.notes) == (None, (), ())


@pytest.mark.parametrize("key", CASES)
def test_fields_that_equal_the_defaults_may_be_absent(key):
    case = CASES[key]
    defaults = FIELDS[case["model_type"]]
    equal = [name for name, value in defaults.items() if case["config"].get(name) == value]
    assert read(key, removed=equal).overrides == read(key).overrides


def test_image_encoder_of_a_model_with_text():
    case = CASES["hf/clip"]
    vision = case["config"]
    shapes = {f"vision_model.{name}": shape for name, shape in case["shapes"].items()}
    shapes |= {"visual_projection.weight": (9, 48), "text_model.final_layer_norm.weight": (5,), "logit_scale": ()}
    config = {
        "model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 9, "text_config": {"hidden_size": 5},
        "vision_config": {**vision, "hidden_size": 32}, "vision_config_dict": vision, "logit_scale_init_value": 2.6,
    }  # fmt: skip
    description = read_config(config, PATH, shapes)
    assert description.model_type == "clip_vision_model"
    assert description.overrides == read("hf/clip").overrides | {"num_classes": 9}
    with pytest.raises(tc.InputError, match=r"projection_dim=8: must be 9, because visual_projection.weight has shape"):
        read_config(config | {"projection_dim": 8}, PATH, shapes)
    with pytest.raises(tc.InputError, match=r"vision_config.hidden_size=32: must be 48"):
        read_config(config | {"vision_config_dict": None}, PATH, shapes)
    # As in transformers, the other one replaces all fields, those that it leaves out by their defaults.
    replacement = {name: value for name, value in vision.items() if name != "intermediate_size"}
    with pytest.raises(tc.InputError, match=r"vision_config.intermediate_size=3072: must be 144"):
        read_config(config | {"vision_config_dict": replacement}, PATH, shapes)
    with pytest.raises(tc.InputError, match=r"vision_config.frobnicate=3: must be absent"):
        read_config(config | {"vision_config": {"frobnicate": 3}}, PATH, shapes)
    with pytest.raises(
        tc.InputError, match=r"vision_config_dict=\{\}: must be absent, because SigLIP does not read it"
    ):
        read_config({"model_type": "siglip", "vision_config_dict": {}}, PATH, shapes)
    with pytest.raises(tc.InputError, match=r"vision_config: expected a JSON object, got a list"):
        read_config(config | {"vision_config": []}, PATH, shapes)
    text = {"text_model.final_layer_norm.weight": (5,), "text_projection.weight": (9, 5)}
    with pytest.raises(
        tc.InputError, match="the weights have only tensors of a text encoder, expected those of an image"
    ):
        read_config(config, PATH, text)
    # The defaults of older files.
    with pytest.raises(tc.InputError, match=r"vision_config.hidden_size=768: must be 48"):
        read_config({"model_type": "clip", "vision_config": {}}, PATH, shapes)


@pytest.mark.parametrize(
    ("key", "head", "expected"),
    [
        ("hf/clip", (5, 48), {"num_classes": 5, "global_pool": "avg", "fc_norm": False, "final_norm": False}),
        ("hf/siglip", (5, 48), {"num_classes": 5, "global_pool": "avg", "fc_norm": False}),
        ("hf/dinov2", (5, 96), {"num_classes": 5, "global_pool": "token_avg"}),
    ],
)
def test_classifiers(key, head, expected):
    labels = {str(index): f"class {index}" for index in range(5)}
    description = read(key, {"id2label": labels}, {"classifier.weight": head})
    assert expected.items() <= description.overrides.items()
    assert description.labels == list(labels.values())
    assert description.ignored == ((r"norm\..*",) if key == "hf/clip" else ())


def test_classifier_of_dinov2_reads_two_vectors():
    message = message_of("hf/dinov2", shapes={"classifier.weight": (2, 48)})
    assert message == "2 * hidden_size=96: must be 48, because classifier.weight has shape (2, 48)"


def test_one_head_of_deit():
    shapes = {name: shape for name, shape in CASES["hf/deit"]["shapes"].items() if "classifier" not in name}
    config = {**CASES["hf/deit"]["config"], "architectures": ["DeiTForImageClassification"]}
    overrides = read_config(config, PATH, shapes | {"classifier.weight": (7, 48)}).overrides
    assert (overrides["num_classes"], overrides["dist_head"]) == (7, False)


def test_sizes_of_height_and_width():
    shapes = {"vit.embeddings.position_embeddings": (1, 9, 48)}
    assert read("hf/vit", {"image_size": [32, 64]}, shapes).overrides["img_size"] == (32, 64)
    assert read("hf/vit", {"patch_size": [16, 16]}).overrides["patch_size"] == 16
    # Pixels that fill no patch are not read.
    assert read("hf/vit", {"image_size": 70}).overrides["allow_remainder"] is True


def test_resampling_of_positions():
    assert read("hf/dinov2").resampling == ("cubic_torch", False)
    assert read("hf/dinov2_registers").resampling == ("cubic", True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip2"}, "model_type='siglip2': must be one of clip, clip_vision_model, deit, dinov2, "),
        ({"model_type": None}, "model_type=None: must be one of clip, "),
        ({"model_type": ["vit"]}, "model_type=['vit']: must be one of clip, "),
        ({"hidden_size": 64}, "hidden_size=64: must be 48, because vit.embeddings.patch_embeddings.projection.weight has "),
        ({"hidden_size": "48"}, "hidden_size='48': must be an integer >= 1"),
        ({"hidden_size": True}, "hidden_size=True: must be an integer >= 1"),
        ({"hidden_size": 10**400}, "hidden_size=10000"),
        ({"hidden_act": "x" * 10_000}, f"hidden_act='{'x' * 399}...: must be one of gelu"),
        ({"hidden_size": None}, "hidden_size=None: must be an integer >= 1"),
        ({"num_hidden_layers": 4}, "num_hidden_layers=4: must be 3, because the file has 3 blocks, the last with vit.encoder.layer.2."),
        ({"num_attention_heads": 5}, "num_attention_heads=5: must be a divisor of hidden_size=48"),
        ({"intermediate_size": 192}, "intermediate_size=192: must be 144, because vit.encoder.layer.0.intermediate.dense"),
        ({"num_channels": 1}, "num_channels=1: must be 3, because vit.embeddings.patch_embeddings.projection.weight has shape"),
        ({"patch_size": 8}, "patch_size=8: must be 16, because vit.embeddings.patch_embeddings.projection.weight has shape"),
        ({"patch_size": [16, 8]}, "patch_size=[16, 8]: must be square"),
        ({"image_size": 224}, "image_size=224: must be that of 16 patches, because vit.embeddings.position_embeddings has "),
        ({"image_size": [64, 64, 3]}, "image_size=[64, 64, 3]: must be an integer in [1, 16384], or a list of height and width"),
        ({"image_size": 8}, "image_size=8: must be >= patch_size=16"),
        ({"hidden_act": "mish"}, "hidden_act='mish': must be one of gelu, "),
        ({"hidden_act": 3}, "hidden_act=3: must be one of gelu, "),
        ({"layer_norm_eps": "1e-6"}, "layer_norm_eps='1e-6': must be a number > 0"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps=10000"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan: must be a number > 0"),
        ({"qkv_bias": False}, "qkv_bias=False: must be true, because the file has vit.encoder.layer.0.attention.attention."),
        ({"qkv_bias": 1}, "qkv_bias=1: must be true or false"),
        ({"head_dim": 16}, "head_dim=16: must be hidden_size / num_attention_heads"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]}: must be {}"),
        ({"is_decoder": True}, "is_decoder=True: must be False"),
        ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}: must be absent, because it is not supported"),
        ({"use_mean_pooling": True}, "use_mean_pooling=True: must be absent, because it is not supported"),
        ({"window": 7}, "window=7: must be absent, because it is not supported"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type='rotary': must be absent, because it is not supported"),
        ({"norm_type": "rms"}, "norm_type='rms': must be absent, because it is not supported"),
        ({"rope_parameters": {"rope_theta": 5}}, "rope_parameters={'rope_theta': 5}: must be absent, because it is not"),
        ({"layer_types": []}, "layer_types=[]: must be absent, because it is not supported"),
        ({"architectures": "ViTModel"}, "architectures='ViTModel': must be a list of strings"),
        ({"architectures": [3]}, "architectures=[3]: must be a list of strings"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label: expected the classes 0 to 6 of the classifier, got 2 classes"),
        ({"id2label": ["a"]}, "id2label: expected a JSON object, got a list"),
    ],
)  # fmt: skip
def test_fields_that_cannot_be_represented_are_errors(changes, message):
    assert message_of("hf/vit", changes).startswith(message)


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("hf/dinov2", {"mlp_ratio": 4}, "mlp_ratio=4: must be the ratio of an MLP whose first layer has 144 rows"),
        ("hf/dinov2", {"use_swiglu_ffn": True}, "mlp_ratio=3: must be the ratio of an MLP whose first layer has 144 rows"),
        ("hf/dinov2", {"layerscale_value": "1"}, "layerscale_value='1': must be a number"),
        ("hf/dinov2_registers", {"num_register_tokens": 3}, "num_register_tokens=3: must be 4, because embeddings.register"),
        ("hf/dinov3", {"use_gated_mlp": True}, "use_gated_mlp=True: must be false, as in the file"),
        ("hf/dinov3", {"query_bias": False}, "value_bias=True: must be that of query_bias=False"),
        ("hf/dinov3", {"key_bias": True}, "key_bias=True: must be false, because the file has no layer.0.attention.k_proj."),
        ("hf/dinov3", {"mlp_bias": False}, "mlp_bias=False: must be true, because the file has layer.0.mlp.down_proj.bias"),
        ("hf/dinov3", {"rope_theta": 0}, "rope_theta=0: must be a number > 0"),
        ("hf/clip", {"image_size": [64, 64]}, "image_size=[64, 64]: must be an integer in [1, 16384]"),
    ],
)  # fmt: skip
def test_fields_of_single_families(key, changes, message):
    assert message_of(key, changes).startswith(message)


def test_fields_without_effect():
    others = {"eos_token_id": 3, "dtype": "float16", "extra": None, "architectures": None, "head_dim": None}
    assert read("hf/vit", others | {"_num_labels": 2}) == read("hf/vit")


@pytest.mark.parametrize(
    ("key", "architecture", "missing"),
    [
        ("hf/vit", "ViTForImageClassification", "classifier.weight"),
        ("hf/deit", "DeiTForImageClassificationWithTeacher", "cls_classifier.weight"),
        ("hf/deit", "DeiTForImageClassification", "classifier.weight"),
        ("hf/clip", "CLIPVisionModelWithProjection", "visual_projection.weight"),
    ],
)
def test_heads_of_the_class_must_be_in_the_file(key, architecture, missing):
    config = {**CASES[key]["config"], "architectures": [architecture]}
    shapes = {name: shape for name, shape in CASES[key]["shapes"].items() if "classifier" not in name}
    with pytest.raises(tc.InputError) as error:
        read_config(config, PATH, shapes)
    problem = f"must be a class without a head, because the file has no {missing}"
    assert str(error.value) == f"{PATH}: architectures=[{architecture!r}]: {problem}"
    base = architecture.partition("For")[0].removesuffix("WithProjection")
    for classes in ([], [f"{base}Model"], None):
        assert read_config({**config, "architectures": classes}, PATH, shapes).overrides["num_classes"] == 0


def test_second_head_of_deit_must_be_in_the_file():
    shapes = {name: shape for name, shape in CASES["hf/deit"]["shapes"].items() if "distillation_cl" not in name}
    with pytest.raises(tc.InputError, match=r"because the file has no distillation_classifier.weight"):
        read_config(CASES["hf/deit"]["config"], PATH, shapes)


def test_siglip_without_a_head():
    (note,) = read("hf/siglip", {"vision_use_head": False}).notes
    assert note.startswith("vision_use_head=False: transformers has no features")


def test_scale_of_zero_is_a_layer():
    assert read("hf/dinov2", {"layerscale_value": 0.0}).overrides["init_values"] == 1e-5


@pytest.mark.parametrize("key", CASES)
def test_any_value_of_any_field_gives_a_description_or_an_error(key):
    for name in (*CASES[key]["config"], "head_dim", "num_labels", "vision_config", "unknown"):
        for value in (
            None,
            True,
            False,
            0,
            -1,
            3,
            10**20,
            1e308,
            float("inf"),
            "",
            "x",
            [],
            [1, 2],
            {},
            {"0": [1]},
            [[]],
        ):
            try:
                description = read(key, {name: value})
            except tc.InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert description.overrides["embed_dim"] == 48
