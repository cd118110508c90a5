"""Small models of every family, with the tensor names and shapes of timm or of the official LV-ViT code."""

from functools import cache

import jax
import numpy as np

import tcvit_jax as tc
from tcvit_jax import models
from tests import golden

# Model name of each family. Its overrides are those of the case in `timm.npz`.
FAMILIES = {
    "deit": "deit_tiny_patch16_224",
    "deit_distilled": "deit_tiny_distilled_patch16_224",
    "deit3": "deit3_small_patch16_224",
    "gap": "vit_medium_patch16_gap_256",
    "gap_fc_norm": "eva_large_patch14_196",
    "avg_with_cls": "eva_large_patch14_196",
    "reg4": "vit_small_patch14_reg4_dinov2",
    "dinov2_like": "vit_small_patch14_dinov2",
    "clip_pre_norm": "vit_base_patch16_clip_224",
    "qk_norm": "vit_small_patch16_224",
    "lvvit": "lvvit_s",
}


@cache
def case(family):
    """Return the name, overrides, tensor shapes and seed of a family."""
    if family == "lvvit":
        meta = golden.read("lvvit")[0]["cases"][0]
        return FAMILIES[family], meta["base"], meta["shapes"], meta["seed"]
    meta = next(case for case in golden.read("timm")[0]["cases"] if case["name"] == family)
    return FAMILIES[family], {**meta["base"], **meta["overrides"]}, meta["shapes"], meta["seed"]


def random_variables(model, scale=1.0):
    """Return random variables of a model, with a fixed seed."""
    rng = np.random.default_rng(0)
    shapes = models.variable_shapes(model)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32) * np.float32(scale), shapes)


@cache
def model(family):
    name, overrides, _, _ = case(family)
    return tc.create_model(name, **overrides)


def weights(family="deit"):
    """Return the tensors of a family."""
    _, _, shapes, seed = case(family)
    return golden.state_dict(shapes, seed)


def augreg(tensors, heads):
    """Convert float32 tensors of timm to the names and layouts of AugReg files."""
    width = tensors["cls_token"].shape[-1]
    converted = {
        "embedding/kernel": tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": tensors["patch_embed.proj.bias"],
        "cls": tensors["cls_token"],
        "Transformer/posembed_input/pos_embedding": tensors["pos_embed"],
        "Transformer/encoder_norm/scale": tensors["norm.weight"],
        "Transformer/encoder_norm/bias": tensors["norm.bias"],
        "head/kernel": tensors["head.weight"].T,
        "head/bias": tensors["head.bias"],
    }
    depth = sum(name.endswith("norm1.weight") for name in tensors)
    for block in range(depth):
        source, target = f"blocks.{block}", f"Transformer/encoderblock_{block}"
        for timm_name, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            converted[f"{target}/{name}/scale"] = tensors[f"{source}.{timm_name}.weight"]
            converted[f"{target}/{name}/bias"] = tensors[f"{source}.{timm_name}.bias"]
        for timm_name, name in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            converted[f"{target}/MlpBlock_3/{name}/kernel"] = tensors[f"{source}.mlp.{timm_name}.weight"].T
            converted[f"{target}/MlpBlock_3/{name}/bias"] = tensors[f"{source}.mlp.{timm_name}.bias"]
        attention = f"{target}/MultiHeadDotProductAttention_1"
        for index, part in enumerate(("query", "key", "value")):
            rows = slice(index * width, (index + 1) * width)
            kernel = tensors[f"{source}.attn.qkv.weight"][rows]
            converted[f"{attention}/{part}/kernel"] = np.stack(np.split(kernel, heads), 0).transpose(2, 0, 1)
            converted[f"{attention}/{part}/bias"] = tensors[f"{source}.attn.qkv.bias"][rows].reshape(heads, -1)
        out = tensors[f"{source}.attn.proj.weight"]
        converted[f"{attention}/out/kernel"] = np.stack([part.T for part in np.split(out, heads, axis=1)])
        converted[f"{attention}/out/bias"] = tensors[f"{source}.attn.proj.bias"]
    return converted
