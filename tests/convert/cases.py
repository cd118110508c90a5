"""Small models of every family, with the tensor names and shapes of timm or of the official LV-ViT code."""

import re
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


def dinov2(tensors):
    """Convert tensors of timm to the names of the official DINOv2 code, in chunks of blocks."""
    renamed = {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", name): tensor for name, tensor in tensors.items()}
    renamed["mask_token"] = np.zeros((1, tensors["cls_token"].shape[-1]), np.float32)
    if "reg_token" in tensors:
        # The class token has a position of its own, and timm stores their sum.
        position = np.float32(0.25) * tensors["pos_embed"][:, :1]
        renamed["register_tokens"] = renamed.pop("reg_token")
        renamed["cls_token"] = tensors["cls_token"] - position
        renamed["pos_embed"] = np.concatenate([position, tensors["pos_embed"]], 1)
    return renamed


def scenic(tensors):
    """Convert tensors of AugReg to the names of scenic."""
    changes = {
        "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0", "LayerNorm_2": "LayerNorm_1",
        "MlpBlock_3": "MlpBlock_0", "head/": "output_projection/",
    }  # fmt: skip
    return {_replace(name, changes): tensor for name, tensor in tensors.items()}


def big_vision(tensors, is_stacked=False):
    """Convert tensors of AugReg to the names of big_vision, which has no position of the class token."""
    renamed = {name.replace("output_projection/", "head/"): tensor for name, tensor in scenic(tensors).items()}
    positions = renamed.pop("Transformer/posembed_input/pos_embedding")
    renamed["cls"] = renamed["cls"] + positions[:, :1]
    renamed["pos_embedding"] = positions[:, 1:]
    if is_stacked:
        blocks = {name: renamed.pop(name) for name in list(renamed) if "encoderblock_" in name}
        for name in {re.sub(r"encoderblock_\d+", "encoderblock_{}", name) for name in blocks}:
            layers = [blocks[name.format(block)] for block in range(len(blocks) // 16)]
            renamed[name.replace("encoderblock_{}", "encoderblock")] = np.stack(layers)
    return renamed


def open_clip(tensors):
    """Convert tensors of timm to the names of OpenCLIP, whose image encoder has no bias in its projection."""
    changes = {
        "patch_embed.proj.": "conv1.", "cls_token": "class_embedding", "pos_embed": "positional_embedding",
        "norm_pre.": "ln_pre.", "attn.qkv.": "attn.in_proj_", "attn.proj.": "attn.out_proj.", "mlp.fc1.": "mlp.c_fc.",
        "mlp.fc2.": "mlp.c_proj.", ".norm1.": ".ln_1.", ".norm2.": ".ln_2.", "blocks.": "transformer.resblocks.",
    }  # fmt: skip
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith("head."):
            name = re.sub(r"^norm\.", "ln_post.", _replace(name, changes))
            is_token = name in ("class_embedding", "positional_embedding")
            renamed[f"visual.{name}"] = (
                tensor.reshape(tensor.shape[1:] if "pos" in name else -1) if is_token else tensor
            )
    text = {
        "positional_embedding": np.ones((4, 8), np.float32),
        "transformer.resblocks.0.ln_1.weight": np.ones(8, np.float32),
    }
    return renamed | {"visual.proj": tensors["head.weight"].T} | text


def _replace(name, changes):
    for old, new in changes.items():
        name = name.replace(old, new)
    return name
