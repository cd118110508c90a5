"""Small models of every family, with the names and shapes that timm or the authors of LV-ViT give their tensors."""

from functools import cache

import numpy as np

import tcvit_jax as tc
from tests import golden

# The variant of a case of `timm.npz` that each family is; overrides are the case's.
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
    """`(name, overrides, shapes of the tensors, seed)`."""
    if family == "lvvit":
        found = golden.read("lvvit")[0]["cases"][0]
        return FAMILIES[family], found["base"], found["shapes"], found["seed"]
    found = next(case for case in golden.read("timm")[0]["cases"] if case["name"] == family)
    return FAMILIES[family], {**found["base"], **found["overrides"]}, found["shapes"], found["seed"]


@cache
def model(family):
    name, overrides, _, _ = case(family)
    return tc.create_model(name, **overrides)


def weights(family="deit"):
    """The tensors of a family's file."""
    _, _, shapes, seed = case(family)
    return golden.state_dict(shapes, seed)


def augreg(tensors, heads):
    """The same weights as the AugReg files have them, by timm's names; float32."""
    width = tensors["cls_token"].shape[-1]
    found = {
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
        ours, theirs = f"blocks.{block}", f"Transformer/encoderblock_{block}"
        for own, other in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            found[f"{theirs}/{other}/scale"] = tensors[f"{ours}.{own}.weight"]
            found[f"{theirs}/{other}/bias"] = tensors[f"{ours}.{own}.bias"]
        for own, other in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            found[f"{theirs}/MlpBlock_3/{other}/kernel"] = tensors[f"{ours}.mlp.{own}.weight"].T
            found[f"{theirs}/MlpBlock_3/{other}/bias"] = tensors[f"{ours}.mlp.{own}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for index, part in enumerate(("query", "key", "value")):
            rows = slice(index * width, (index + 1) * width)
            kernel = tensors[f"{ours}.attn.qkv.weight"][rows]
            found[f"{attention}/{part}/kernel"] = np.stack(np.split(kernel, heads), 0).transpose(2, 0, 1)
            found[f"{attention}/{part}/bias"] = tensors[f"{ours}.attn.qkv.bias"][rows].reshape(heads, -1)
        out = tensors[f"{ours}.attn.proj.weight"]
        found[f"{attention}/out/kernel"] = np.stack([part.T for part in np.split(out, heads, axis=1)])
        found[f"{attention}/out/bias"] = tensors[f"{ours}.attn.proj.bias"]
    return found
