"""Full-size models of transformers and timm with random weights, read and written. Skipped without the libraries."""

import hashlib

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.convert.export import to_transformers

SMALL = {"hidden_size": 384, "num_attention_heads": 6}
TEXT = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 99}
# The class of each case and its configuration, at the size of a published model.
CASES = {
    "vit": ("ViTForImageClassification", {"num_labels": 1000}),
    "deit": ("DeiTForImageClassificationWithTeacher", {**SMALL, "intermediate_size": 1536, "num_labels": 1000}),
    "vit_mae": ("ViTMAEModel", {"mask_ratio": 0.0}),
    "dinov2": ("Dinov2Model", {**SMALL, "image_size": 224}),
    "dinov2_classifier": ("Dinov2ForImageClassification", {**SMALL, "image_size": 224, "num_labels": 10}),
    "dinov2_gated": ("Dinov2Model", {**SMALL, "image_size": 224, "use_swiglu_ffn": True}),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", {**SMALL, "image_size": 224, "patch_size": 14}),
    "clip": ("CLIPVisionModel", {}),
    "siglip": ("SiglipVisionModel", {}),
    "dinov3": ("DINOv3ViTModel", {"num_register_tokens": 4}),
    "dinov3_gated": ("DINOv3ViTModel", {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"}),
}


@pytest.fixture(scope="module")
def transformers(torch):
    return pytest.importorskip("transformers", reason="requires torch and transformers")


def random_model(transformers, torch, class_name, fields):
    """Return a model whose parameters are all random, except for the mask token, which we write as zeros."""
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    return randomized(torch, model_class(model_class.config_class(**fields)))


def randomized(torch, model):
    """Return a model whose parameters are all random, except for the mask token."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.02 * torch.randn_like(parameter)
            if "mask_token" in name:
                parameter.zero_()
    return model.eval()


def output_of(torch, model, images):
    """Return the logits, the pooled features, or the features of the class token."""
    options = {}
    if model.config.model_type == "vit_mae":
        count = (model.config.image_size // model.config.patch_size) ** 2
        options["noise"] = torch.arange(float(count))[None]
    with torch.inference_mode():
        outputs = model(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), **options)
    if "logits" in outputs:
        return outputs.logits.numpy()
    return (outputs.last_hidden_state[:, 0] if "vit" in model.config.model_type[:3] else outputs.pooler_output).numpy()


def digest(model):
    """Return the SHA-256 of all tensors, which have the same names however they are stored."""
    tensors = sorted(model.state_dict().items())
    return hashlib.sha256(b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in tensors)).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_models_of_transformers_at_full_size(case, transformers, torch, tmp_path):
    class_name, fields = CASES[case]
    reference = random_model(transformers, torch, class_name, fields)
    reference.save_pretrained(tmp_path / "source", max_shard_size="50MB")
    tc.convert.to_checkpoint(tmp_path / "source", tmp_path / "ckpt", compare=False)
    model, variables, _ = tc.load(tmp_path / "ckpt")
    images = np.random.default_rng(0).standard_normal((1, *model.img_size, 3)).astype(np.float32)
    expected = output_of(torch, reference, images)
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    # A directory is loaded without a checkpoint, too.
    jax.tree.map(np.testing.assert_array_equal, tc.load(tmp_path / "source")[1], variables)
    to_transformers(tmp_path / "ckpt", tmp_path / "out")
    if class_name == "ViTMAEModel":
        # The same encoder, without masks.
        again = transformers.ViTModel.from_pretrained(tmp_path / "out", add_pooling_layer=False).eval()
    else:
        again, info = getattr(transformers, class_name).from_pretrained(tmp_path / "out", output_loading_info=True)
        again.eval()
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert type(transformers.AutoConfig.from_pretrained(tmp_path / "out")) is type(reference.config)
    assert digest(again) == digest(reference)
    np.testing.assert_allclose(output_of(torch, again, images), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "eva02_small_patch14_336", "vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224",
        "vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3_qkvb",
    ],
)  # fmt: skip
def test_models_of_timm_at_full_size(name, timm, torch):
    torch.manual_seed(0)
    reference = randomized(torch, timm.create_model(name, num_classes=0))
    tensors = reference.state_dict()
    model = tc.create_model(name, num_classes=0)
    variables = tc.convert.from_torch(tensors, model)
    images = np.random.default_rng(0).standard_normal((1, *model.img_size, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    with jax.default_matmul_precision("highest"):
        actual = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    exported = tc.convert.to_torch(variables, model)
    assert exported.keys() == tensors.keys()
    for each, tensor in tensors.items():
        assert exported[each].tobytes() == tensor.numpy().tobytes()


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_image_encoder_within_the_complete_model(family, transformers, torch, tmp_path):
    vision = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    vision |= {"image_size": 64, "patch_size": 16}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config_class = getattr(transformers, f"{family}Config")
    torch.manual_seed(0)
    complete = getattr(transformers, f"{family}Model")(
        config_class(vision_config=vision, text_config=TEXT | ids)
    ).eval()
    complete.save_pretrained(tmp_path / "source")
    model, variables, _ = tc.load(tmp_path / "source")
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = complete.get_image_features(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = expected if torch.is_tensor(expected) else expected.pooler_output
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(model.apply(variables, images), expected.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("Dinov2Model", {}), ("Dinov2WithRegistersModel", {}),
        ("ViTForImageClassification", {"interpolate_pos_encoding": True}),
    ],
)  # fmt: skip
def test_positions_of_another_size(class_name, options, transformers, torch, tmp_path):
    """Each family has its own interpolation."""
    fields = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64, "patch_size": 16}
    reference = random_model(transformers, torch, class_name, fields)
    reference.save_pretrained(tmp_path / "source")
    model, variables, _ = tc.load(tmp_path / "source", img_size=(96, 48))
    images = np.random.default_rng(0).standard_normal((2, 96, 48, 3)).astype(np.float32)
    with torch.inference_mode():
        outputs = reference(pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), **options)
    expected = outputs.logits if "logits" in outputs else outputs.pooler_output
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(model.apply(variables, images), expected.numpy(), rtol=0, atol=2e-5)
