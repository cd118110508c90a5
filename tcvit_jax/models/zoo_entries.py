"""Entries of the registry of pretrained models: sizes, number of parameters, and preprocessing.

Each model is one line. The tag after the dot names the training data; a name without a tag refers to its first line, as
in timm. Overrides list only the values that differ from the defaults of the architecture. All values are those of timm
1.0.31 and, for LV-ViT, of the TokenLabeling repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.models.lvvit import LVViT
from tcvit_jax.models.vit import ViT


@dataclass(frozen=True)
class ZooEntry:
    """Registry entry of one pretrained model.

    Attributes:
        parameters: Number of parameters; 0 for a model of any size, without pretrained weights.
        overrides: Fields that differ from the defaults of the architecture.
        preprocessing: Preprocessing of the pretrained weights.
        architecture: Class of the model.
    """

    parameters: int
    overrides: Mapping[str, Any]
    preprocessing: Preprocessing
    architecture: type[ViT] = ViT


TINY = {"embed_dim": 192, "num_heads": 3}
SMALL = {"embed_dim": 384, "num_heads": 6}
MEDIUM = {"embed_dim": 512, "num_heads": 8}
BASE = {"embed_dim": 768, "num_heads": 12}
LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}

SO400M = {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 3.7362}
HUGE_PLUS = {"embed_dim": 1280, "depth": 32, "num_heads": 20}
GIANT = {
    "embed_dim": 1536,
    "depth": 40,
    "num_heads": 24,
    "mlp_ratio": 2.66667,
    "mlp_layer": "swiglu_packed",
    "act_layer": "silu",
}
GIANT_OPT = {"embed_dim": 1536, "depth": 40, "num_heads": 16}
DINOV3_7B = {"embed_dim": 4096, "depth": 40, "num_heads": 32, "mlp_ratio": 2.0}

P8, P14, P16, P32 = ({"patch_size": size} for size in (8, 14, 16, 32))
IMG196, IMG256, IMG336, IMG378, IMG384, IMG448, IMG512, IMG896 = (
    {"img_size": size} for size in (196, 256, 336, 378, 384, 448, 512, 896)
)
NO_HEAD = {"num_classes": 0}
IN1K, IN21K, IN22K = ({"num_classes": classes} for classes in (1000, 21843, 21841))
DISTILLED = {"distilled": True}
DEIT3 = {"no_embed_class": True, "init_values": 1e-6}
GAP = {"class_token": False, "global_pool": "avg", "fc_norm": False, "qkv_bias": False, "init_values": 1e-6}
EVA = {"patch_size": 14, "global_pool": "avg"}
CLIP = {"pre_norm": True, "norm_eps": 1e-5}
CLIP_512, CLIP_768 = {"num_classes": 512}, {"num_classes": 768}
QGELU = {"act_layer": "quick_gelu", "num_classes": 512}
DINOV2 = {"patch_size": 14, "img_size": 518, "num_classes": 0, "init_values": 1e-5}
DINOV3 = {
    "img_size": 256, "num_classes": 0, "global_pool": "avg", "fc_norm": False, "reg_tokens": 4, "init_values": 1e-5,
    "qkv_bias": False, "pos_embed": "none", "rope_type": "dinov3", "rope_temperature": 100.0, "norm_eps": 1e-5,
}  # fmt: skip
GATED = {"mlp_layer": "swiglu", "act_layer": "silu"}
QV_BIAS = {"qkv_bias": True, "key_bias": False}
SIGLIP_GAP = {"num_classes": 0, "class_token": False, "global_pool": "avg", "fc_norm": False}
SIGLIP = SIGLIP_GAP | {"global_pool": "map"}
TANH = {"act_layer": "gelu_tanh"}
# The two of 384 pixels have patches of 14.
REMAINDER = {"allow_remainder": True}
SO14, SO14_GAP = SO400M | SIGLIP | P14, SO400M | SIGLIP_GAP | P14
EVA02 = EVA | QV_BIAS | {"rope_type": "cat", "mlp_layer": "swiglu_packed", "act_layer": "silu", "mlp_ratio": 8 / 3}
EVA02_LN = EVA02 | {"mlp_layer": "swiglu", "scale_mlp": True, "qkv_fused": False}
EVA02_CLIP = {"global_pool": "token", "scale_attn_inner": True}
LVVIT_L = {"depth": 24, "skip_lam": 3.0, "stem_channels": 128, "img_size": 448}
REG4 = {"reg_tokens": 4, "no_embed_class": True}

IMAGENET = Preprocessing()
INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SAT493M = Preprocessing((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
OPENAI = Preprocessing((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _entries(
    name: str, tags: str, parameters: int, fields: Mapping[str, Any], preprocessing: Preprocessing
) -> dict[str, ZooEntry]:
    """Return the entries of pretrained weights that differ only in their training data.

    Args:
        name: Name of the model.
        tags: Tags of the weights, separated by spaces.
        parameters: As in `ZooEntry`, like the other arguments.
        fields: Its overrides, likewise.
        preprocessing: Likewise.
    """
    return {f"{name}.{tag}": ZooEntry(parameters, fields, preprocessing) for tag in tags.split()}


# fmt: off
ZOO: dict[str, ZooEntry] = {
    # DeiT (Touvron et al., 2021).
    "deit_tiny_patch16_224.fb_in1k": ZooEntry(5_717_416, TINY, IMAGENET),
    "deit_small_patch16_224.fb_in1k": ZooEntry(22_050_664, SMALL, IMAGENET),
    "deit_base_patch16_224.fb_in1k": ZooEntry(86_567_656, BASE, IMAGENET),
    "deit_base_patch16_384.fb_in1k": ZooEntry(86_859_496, BASE | IMG384, IMAGENET.crop(1.0)),
    "deit_tiny_distilled_patch16_224.fb_in1k": ZooEntry(5_910_800, TINY | DISTILLED, IMAGENET),
    "deit_small_distilled_patch16_224.fb_in1k": ZooEntry(22_436_432, SMALL | DISTILLED, IMAGENET),
    "deit_base_distilled_patch16_224.fb_in1k": ZooEntry(87_338_192, BASE | DISTILLED, IMAGENET),
    "deit_base_distilled_patch16_384.fb_in1k": ZooEntry(87_630_032, BASE | DISTILLED | IMG384, IMAGENET.crop(1.0)),
    # DeiT-III (Touvron et al., 2022).
    "deit3_small_patch16_224.fb_in1k": ZooEntry(22_059_496, SMALL | DEIT3, IMAGENET),
    "deit3_small_patch16_224.fb_in22k_ft_in1k": ZooEntry(22_059_496, SMALL | DEIT3, IMAGENET.crop(1.0)),
    "deit3_small_patch16_384.fb_in1k": ZooEntry(22_205_416, SMALL | DEIT3 | IMG384, IMAGENET.crop(1.0)),
    "deit3_small_patch16_384.fb_in22k_ft_in1k": ZooEntry(22_205_416, SMALL | DEIT3 | IMG384, IMAGENET.crop(1.0)),
    "deit3_medium_patch16_224.fb_in1k": ZooEntry(38_849_512, MEDIUM | DEIT3, IMAGENET),
    "deit3_medium_patch16_224.fb_in22k_ft_in1k": ZooEntry(38_849_512, MEDIUM | DEIT3, IMAGENET.crop(1.0)),
    "deit3_base_patch16_224.fb_in1k": ZooEntry(86_585_320, BASE | DEIT3, IMAGENET),
    "deit3_base_patch16_224.fb_in22k_ft_in1k": ZooEntry(86_585_320, BASE | DEIT3, IMAGENET.crop(1.0)),
    "deit3_base_patch16_384.fb_in1k": ZooEntry(86_877_160, BASE | DEIT3 | IMG384, IMAGENET.crop(1.0)),
    "deit3_base_patch16_384.fb_in22k_ft_in1k": ZooEntry(86_877_160, BASE | DEIT3 | IMG384, IMAGENET.crop(1.0)),
    "deit3_large_patch16_224.fb_in1k": ZooEntry(304_374_760, LARGE | DEIT3, IMAGENET),
    "deit3_large_patch16_224.fb_in22k_ft_in1k": ZooEntry(304_374_760, LARGE | DEIT3, IMAGENET.crop(1.0)),
    "deit3_large_patch16_384.fb_in1k": ZooEntry(304_763_880, LARGE | DEIT3 | IMG384, IMAGENET.crop(1.0)),
    "deit3_large_patch16_384.fb_in22k_ft_in1k": ZooEntry(304_763_880, LARGE | DEIT3 | IMG384, IMAGENET.crop(1.0)),
    # AugReg (Steiner et al., 2021).
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": ZooEntry(5_717_416, TINY, INCEPTION),
    "vit_tiny_patch16_224.augreg_in21k": ZooEntry(9_740_115, TINY | IN21K, INCEPTION),
    "vit_tiny_patch16_384.augreg_in21k_ft_in1k": ZooEntry(5_790_376, TINY | IMG384, INCEPTION.crop(1.0)),
    "vit_small_patch16_224.augreg_in21k_ft_in1k": ZooEntry(22_050_664, SMALL, INCEPTION),
    "vit_small_patch16_224.augreg_in1k": ZooEntry(22_050_664, SMALL, INCEPTION),
    "vit_small_patch16_224.augreg_in21k": ZooEntry(30_075_219, SMALL | IN21K, INCEPTION),
    "vit_small_patch16_384.augreg_in21k_ft_in1k": ZooEntry(22_196_584, SMALL | IMG384, INCEPTION.crop(1.0)),
    "vit_small_patch16_384.augreg_in1k": ZooEntry(22_196_584, SMALL | IMG384, INCEPTION.crop(1.0)),
    "vit_small_patch32_224.augreg_in21k_ft_in1k": ZooEntry(22_878_952, SMALL | P32, INCEPTION),
    "vit_small_patch32_224.augreg_in21k": ZooEntry(30_903_507, SMALL | P32 | IN21K, INCEPTION),
    "vit_small_patch32_384.augreg_in21k_ft_in1k": ZooEntry(22_915_432, SMALL | P32 | IMG384, INCEPTION.crop(1.0)),
    "vit_base_patch16_224.augreg2_in21k_ft_in1k": ZooEntry(86_567_656, BASE, INCEPTION),
    "vit_base_patch16_224.augreg_in21k_ft_in1k": ZooEntry(86_567_656, BASE, INCEPTION),
    "vit_base_patch16_224.augreg_in1k": ZooEntry(86_567_656, BASE, INCEPTION),
    "vit_base_patch16_224.augreg_in21k": ZooEntry(102_595_923, BASE | IN21K, INCEPTION),
    "vit_base_patch16_384.augreg_in21k_ft_in1k": ZooEntry(86_859_496, BASE | IMG384, INCEPTION.crop(1.0)),
    "vit_base_patch16_384.augreg_in1k": ZooEntry(86_859_496, BASE | IMG384, INCEPTION.crop(1.0)),
    "vit_base_patch32_224.augreg_in21k_ft_in1k": ZooEntry(88_224_232, BASE | P32, INCEPTION),
    "vit_base_patch32_224.augreg_in1k": ZooEntry(88_224_232, BASE | P32, INCEPTION),
    "vit_base_patch32_224.augreg_in21k": ZooEntry(104_252_499, BASE | P32 | IN21K, INCEPTION),
    "vit_base_patch32_384.augreg_in21k_ft_in1k": ZooEntry(88_297_192, BASE | P32 | IMG384, INCEPTION.crop(1.0)),
    "vit_base_patch32_384.augreg_in1k": ZooEntry(88_297_192, BASE | P32 | IMG384, INCEPTION.crop(1.0)),
    "vit_base_patch8_224.augreg2_in21k_ft_in1k": ZooEntry(86_576_872, BASE | P8, INCEPTION),
    "vit_base_patch8_224.augreg_in21k_ft_in1k": ZooEntry(86_576_872, BASE | P8, INCEPTION),
    "vit_base_patch8_224.augreg_in21k": ZooEntry(102_605_139, BASE | P8 | IN21K, INCEPTION),
    "vit_large_patch16_224.augreg_in21k_ft_in1k": ZooEntry(304_326_632, LARGE, INCEPTION),
    "vit_large_patch16_224.augreg_in21k": ZooEntry(325_690_707, LARGE | IN21K, INCEPTION),
    "vit_large_patch16_384.augreg_in21k_ft_in1k": ZooEntry(304_715_752, LARGE | IMG384, INCEPTION.crop(1.0)),
    # Global average pooling, no class token (timm).
    "vit_medium_patch16_gap_256.sw_in12k_ft_in1k": ZooEntry(38_861_288, MEDIUM | GAP | IMG256, INCEPTION.crop(0.95)),
    "vit_medium_patch16_gap_384.sw_in12k_ft_in1k": ZooEntry(39_025_128, MEDIUM | GAP | IMG384, INCEPTION.squash(0.95)),
    # EVA, fine-tuned (Fang et al., 2022).
    "eva_large_patch14_196.in22k_ft_in22k_in1k": ZooEntry(304_142_312, LARGE | EVA | IMG196, OPENAI.crop(1.0)),
    "eva_large_patch14_196.in22k_ft_in1k": ZooEntry(304_142_312, LARGE | EVA | IMG196, OPENAI.crop(1.0)),
    "eva_large_patch14_336.in22k_ft_in22k_in1k": ZooEntry(304_531_432, LARGE | EVA | IMG336, OPENAI.squash(1.0)),
    "eva_large_patch14_336.in22k_ft_in1k": ZooEntry(304_531_432, LARGE | EVA | IMG336, OPENAI.squash(1.0)),
    # CLIP (Radford et al., 2021; LAION).
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k": ZooEntry(86_568_424, BASE | CLIP, OPENAI.crop(0.95)),
    "vit_base_patch16_clip_224.laion2b_ft_in1k": ZooEntry(86_568_424, BASE | CLIP, OPENAI.crop(1.0)),
    "vit_base_patch16_clip_224.openai_ft_in12k_in1k": ZooEntry(86_568_424, BASE | CLIP, OPENAI.crop(0.95)),
    "vit_base_patch16_clip_224.openai_ft_in1k": ZooEntry(86_568_424, BASE | CLIP, OPENAI),
    "vit_base_patch16_clip_224.laion2b": ZooEntry(86_193_152, BASE | CLIP | CLIP_512, OPENAI.crop(1.0)),
    "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k": ZooEntry(86_860_264, BASE | CLIP | IMG384, OPENAI.squash(1.0)),
    "vit_base_patch16_clip_384.laion2b_ft_in1k": ZooEntry(86_860_264, BASE | CLIP | IMG384, OPENAI.squash(1.0)),
    "vit_base_patch16_clip_384.openai_ft_in12k_in1k": ZooEntry(86_860_264, BASE | CLIP | IMG384, OPENAI.squash(0.95)),
    "vit_base_patch16_clip_384.openai_ft_in1k": ZooEntry(86_860_264, BASE | CLIP | IMG384, OPENAI.squash(1.0)),
    "vit_base_patch16_clip_quickgelu_224.metaclip_2pt5b": ZooEntry(86_193_152, BASE | CLIP | QGELU, OPENAI.crop(1.0)),
    "vit_base_patch16_clip_quickgelu_224.metaclip_400m": ZooEntry(86_193_152, BASE | CLIP | QGELU, OPENAI.crop(1.0)),
    "vit_base_patch16_clip_quickgelu_224.openai": ZooEntry(86_193_152, BASE | CLIP | QGELU, OPENAI),
    # DINO (Caron et al., 2021) and MAE (He et al., 2021), without a classifier.
    "vit_small_patch16_224.dino": ZooEntry(21_665_664, SMALL | NO_HEAD, IMAGENET),
    "vit_small_patch8_224.dino": ZooEntry(21_670_272, SMALL | P8 | NO_HEAD, IMAGENET),
    "vit_base_patch16_224.dino": ZooEntry(85_798_656, BASE | NO_HEAD, IMAGENET),
    "vit_base_patch16_224.mae": ZooEntry(85_798_656, BASE | NO_HEAD, IMAGENET),
    "vit_base_patch8_224.dino": ZooEntry(85_807_872, BASE | P8 | NO_HEAD, IMAGENET),
    "vit_large_patch16_224.mae": ZooEntry(303_301_632, LARGE | NO_HEAD, IMAGENET),
    # DINOv2 (Oquab et al., 2023), with registers (Darcet et al., 2023).
    "vit_small_patch14_dinov2.lvd142m": ZooEntry(22_056_192, SMALL | DINOV2, IMAGENET.crop(1.0)),
    "vit_small_patch14_reg4_dinov2.lvd142m": ZooEntry(22_057_344, SMALL | DINOV2 | REG4, IMAGENET.crop(1.0)),
    "vit_base_patch14_dinov2.lvd142m": ZooEntry(86_579_712, BASE | DINOV2, IMAGENET.crop(1.0)),
    "vit_base_patch14_reg4_dinov2.lvd142m": ZooEntry(86_582_016, BASE | DINOV2 | REG4, IMAGENET.crop(1.0)),
    "vit_large_patch14_dinov2.lvd142m": ZooEntry(304_367_616, LARGE | DINOV2, IMAGENET.crop(1.0)),
    "vit_large_patch14_reg4_dinov2.lvd142m": ZooEntry(304_370_688, LARGE | DINOV2 | REG4, IMAGENET.crop(1.0)),
    "vit_giant_patch14_dinov2.lvd142m": ZooEntry(1_136_479_232, GIANT | DINOV2, IMAGENET.crop(1.0)),
    "vit_giant_patch14_reg4_dinov2.lvd142m": ZooEntry(1_136_483_840, GIANT | DINOV2 | REG4, IMAGENET.crop(1.0)),
    # DINOv3 (Simeoni et al., 2025), without a classifier. timm leaves out biases that are zero except for `qkvb`.
    **_entries("vit_7b_patch16_dinov3", "lvd1689m", 6_716_030_976, DINOV3_7B | DINOV3 | GATED, IMAGENET.crop(1.0)),
    **_entries("vit_7b_patch16_dinov3", "sat493m", 6_716_030_976, DINOV3_7B | DINOV3 | GATED, SAT493M.crop(1.0)),
    **_entries("vit_base_patch16_dinov3", "lvd1689m", 85_641_216, BASE | DINOV3, IMAGENET.crop(1.0)),
    **_entries(
        "vit_base_patch16_dinov3_qkvb", "lvd1689m eupe_lvd1689m",
        85_659_648, BASE | DINOV3 | QV_BIAS, IMAGENET.crop(1.0),
    ),
    **_entries("vit_huge_plus_patch16_dinov3", "lvd1689m", 840_509_440, HUGE_PLUS | DINOV3 | GATED, IMAGENET.crop(1.0)),
    **_entries(
        "vit_huge_plus_patch16_dinov3_qkvb", "lvd1689m",
        840_591_360, HUGE_PLUS | DINOV3 | GATED | QV_BIAS, IMAGENET.crop(1.0),
    ),
    **_entries("vit_large_patch16_dinov3", "lvd1689m", 303_079_424, LARGE | DINOV3, IMAGENET.crop(1.0)),
    **_entries("vit_large_patch16_dinov3", "sat493m", 303_079_424, LARGE | DINOV3, SAT493M.crop(1.0)),
    **_entries("vit_large_patch16_dinov3_qkvb", "lvd1689m", 303_128_576, LARGE | DINOV3 | QV_BIAS, IMAGENET.crop(1.0)),
    **_entries("vit_large_patch16_dinov3_qkvb", "sat493m", 303_128_576, LARGE | DINOV3 | QV_BIAS, SAT493M.crop(1.0)),
    **_entries("vit_small_patch16_dinov3", "lvd1689m", 21_586_944, SMALL | DINOV3, IMAGENET.crop(1.0)),
    **_entries(
        "vit_small_patch16_dinov3_qkvb", "lvd1689m eupe_lvd1689m",
        21_596_160, SMALL | DINOV3 | QV_BIAS, IMAGENET.crop(1.0),
    ),
    **_entries("vit_small_plus_patch16_dinov3", "lvd1689m", 28_683_264, SMALL | DINOV3 | GATED, IMAGENET.crop(1.0)),
    **_entries(
        "vit_small_plus_patch16_dinov3_qkvb", "lvd1689m",
        28_692_480, SMALL | DINOV3 | GATED | QV_BIAS, IMAGENET.crop(1.0),
    ),
    **_entries("vit_tiny_patch16_dinov3_qkvb", "eupe_lvd1689m", 5_489_664, TINY | DINOV3 | QV_BIAS, IMAGENET.crop(1.0)),
    # SigLIP (Zhai et al., 2023), SigLIP 2 (Tschannen et al., 2025) and towers of PaliGemma, without a classifier.
    **_entries("vit_base_patch16_siglip_224", "v2_webli webli", 92_884_224, BASE | SIGLIP, INCEPTION),
    **_entries(
        "vit_base_patch16_siglip_256", "v2_webli webli webli_i18n",
        92_930_304, BASE | SIGLIP | IMG256, INCEPTION,
    ),
    **_entries("vit_base_patch16_siglip_384", "v2_webli webli", 93_176_064, BASE | SIGLIP | IMG384, INCEPTION),
    **_entries("vit_base_patch16_siglip_512", "v2_webli webli", 93_520_128, BASE | SIGLIP | IMG512, INCEPTION),
    **_entries("vit_base_patch16_siglip_gap_224", "v2_webli webli", 85_797_120, BASE | SIGLIP_GAP, INCEPTION),
    **_entries(
        "vit_base_patch16_siglip_gap_256", "v2_webli webli webli_i18n",
        85_843_200, BASE | SIGLIP_GAP | IMG256, INCEPTION,
    ),
    **_entries("vit_base_patch16_siglip_gap_384", "v2_webli webli", 86_088_960, BASE | SIGLIP_GAP | IMG384, INCEPTION),
    **_entries("vit_base_patch16_siglip_gap_512", "v2_webli webli", 86_433_024, BASE | SIGLIP_GAP | IMG512, INCEPTION),
    **_entries("vit_base_patch32_siglip_256", "v2_webli", 94_552_320, BASE | SIGLIP | P32 | IMG256 | TANH, INCEPTION),
    **_entries(
        "vit_base_patch32_siglip_gap_256", "v2_webli",
        87_465_216, BASE | SIGLIP_GAP | P32 | IMG256 | TANH, INCEPTION,
    ),
    **_entries(
        "vit_giantopt_patch16_siglip_256", "v2_webli",
        1_163_168_256, GIANT_OPT | SIGLIP | IMG256 | TANH, INCEPTION,
    ),
    **_entries(
        "vit_giantopt_patch16_siglip_384", "v2_webli",
        1_163_659_776, GIANT_OPT | SIGLIP | IMG384 | TANH, INCEPTION,
    ),
    **_entries(
        "vit_giantopt_patch16_siglip_gap_256", "v2_webli",
        1_134_838_272, GIANT_OPT | SIGLIP_GAP | IMG256 | TANH, INCEPTION,
    ),
    **_entries(
        "vit_giantopt_patch16_siglip_gap_384", "v2_webli",
        1_135_329_792, GIANT_OPT | SIGLIP_GAP | IMG384 | TANH, INCEPTION,
    ),
    **_entries("vit_large_patch16_siglip_256", "v2_webli webli", 315_956_224, LARGE | SIGLIP | IMG256, INCEPTION),
    **_entries("vit_large_patch16_siglip_384", "v2_webli webli", 316_283_904, LARGE | SIGLIP | IMG384, INCEPTION),
    **_entries("vit_large_patch16_siglip_512", "v2_webli", 316_742_656, LARGE | SIGLIP | IMG512 | TANH, INCEPTION),
    **_entries(
        "vit_large_patch16_siglip_gap_256", "v2_webli webli",
        303_361_024, LARGE | SIGLIP_GAP | IMG256, INCEPTION,
    ),
    **_entries(
        "vit_large_patch16_siglip_gap_384", "v2_webli webli",
        303_688_704, LARGE | SIGLIP_GAP | IMG384, INCEPTION,
    ),
    **_entries(
        "vit_large_patch16_siglip_gap_512", "v2_webli",
        304_147_456, LARGE | SIGLIP_GAP | IMG512 | TANH, INCEPTION,
    ),
    **_entries("vit_so400m_patch14_siglip_224", "v2_webli webli", 427_680_704, SO14, INCEPTION),
    **_entries("vit_so400m_patch14_siglip_378", "v2_webli webli", 428_225_600, SO14 | IMG378, INCEPTION),
    **_entries(
        "vit_so400m_patch14_siglip_378", "webli_ft_in1k",
        429_378_600, SO14 | IMG378 | IN1K, INCEPTION.squash(1.0),
    ),
    **_entries("vit_so400m_patch14_siglip_384", "webli", 428_225_600, SO14 | IMG384 | REMAINDER, INCEPTION),
    **_entries(
        "vit_so400m_patch14_siglip_gap_224", "v2_webli webli pali_mix pali_pt pali2_3b_pt pali2_10b_pt",
        412_442_352, SO14_GAP, INCEPTION,
    ),
    **_entries("vit_so400m_patch14_siglip_gap_378", "v2_webli", 412_987_248, SO14_GAP | IMG378, INCEPTION),
    **_entries("vit_so400m_patch14_siglip_gap_378", "webli", 412_987_248, SO14_GAP | IMG378, INCEPTION.crop(1.0)),
    **_entries(
        "vit_so400m_patch14_siglip_gap_378", "webli_ft_in1k",
        414_140_248, SO14_GAP | IMG378 | IN1K, INCEPTION.squash(1.0),
    ),
    **_entries(
        "vit_so400m_patch14_siglip_gap_384", "webli",
        412_987_248, SO14_GAP | IMG384 | REMAINDER, INCEPTION.crop(1.0),
    ),
    **_entries(
        "vit_so400m_patch14_siglip_gap_448",
        "pali_mix pali_pt pali_refcoco_seg pali_ocrvqa "
        "pali2_3b_pt pali2_10b_pt pali2_3b_docci pali2_10b_docci",
        413_327_088, SO14_GAP | IMG448, INCEPTION.crop(1.0),
    ),
    **_entries(
        "vit_so400m_patch14_siglip_gap_896", "pali_pt pali_refcoco_seg pali_ocrvqa pali2_3b_pt pali2_10b_pt",
        416_866_032, SO14_GAP | IMG896, INCEPTION.crop(1.0),
    ),
    **_entries(
        "vit_so400m_patch16_siglip_256", "v2_webli webli_i18n",
        427_888_064, SO400M | SIGLIP | IMG256 | TANH, INCEPTION,
    ),
    **_entries("vit_so400m_patch16_siglip_384", "v2_webli", 428_256_704, SO400M | SIGLIP | IMG384 | TANH, INCEPTION),
    **_entries("vit_so400m_patch16_siglip_512", "v2_webli", 428_772_800, SO400M | SIGLIP | IMG512 | TANH, INCEPTION),
    **_entries(
        "vit_so400m_patch16_siglip_gap_256", "v2_webli webli_i18n",
        412_649_712, SO400M | SIGLIP_GAP | IMG256 | TANH, INCEPTION,
    ),
    **_entries(
        "vit_so400m_patch16_siglip_gap_384", "v2_webli",
        413_018_352, SO400M | SIGLIP_GAP | IMG384 | TANH, INCEPTION,
    ),
    **_entries(
        "vit_so400m_patch16_siglip_gap_512", "v2_webli",
        413_534_448, SO400M | SIGLIP_GAP | IMG512 | TANH, INCEPTION,
    ),
    # EVA-02 (Fang et al., 2023).
    **_entries("eva02_base_patch14_224", "mim_in22k", 85_758_720, BASE | EVA02_LN | NO_HEAD, OPENAI),
    **_entries(
        "eva02_base_patch14_448", "mim_in22k_ft_in22k_in1k",
        87_117_544, BASE | EVA02_LN | IMG448, OPENAI.squash(1.0),
    ),
    **_entries("eva02_base_patch14_448", "mim_in22k_ft_in1k", 87_117_544, BASE | EVA02_LN | IMG448, OPENAI.crop(1.0)),
    **_entries(
        "eva02_base_patch14_448", "mim_in22k_ft_in22k",
        103_144_273, BASE | EVA02_LN | IMG448 | IN22K, OPENAI.squash(1.0),
    ),
    **_entries(
        "eva02_base_patch16_clip_224", "merged2b",
        86_263_040, BASE | EVA02_LN | EVA02_CLIP | P16 | CLIP_512, OPENAI,
    ),
    **_entries("eva02_large_patch14_224", "mim_in22k mim_m38m", 303_268_800, LARGE | EVA02_LN | NO_HEAD, OPENAI),
    **_entries(
        "eva02_large_patch14_448", "mim_in22k_ft_in22k_in1k mim_m38m_ft_in22k_in1k",
        305_080_232, LARGE | EVA02_LN | IMG448, OPENAI.squash(1.0),
    ),
    **_entries(
        "eva02_large_patch14_448", "mim_in22k_ft_in1k mim_m38m_ft_in1k",
        305_080_232, LARGE | EVA02_LN | IMG448, OPENAI.crop(1.0),
    ),
    **_entries(
        "eva02_large_patch14_448", "mim_in22k_ft_in22k mim_m38m_ft_in22k",
        326_442_257, LARGE | EVA02_LN | IMG448 | IN22K, OPENAI.squash(1.0),
    ),
    **_entries(
        "eva02_large_patch14_clip_224", "merged2b",
        304_105_152, LARGE | EVA02_LN | EVA02_CLIP | CLIP_768, OPENAI,
    ),
    **_entries(
        "eva02_large_patch14_clip_336", "merged2b",
        304_432_832, LARGE | EVA02_LN | EVA02_CLIP | IMG336 | CLIP_768, OPENAI.crop(1.0),
    ),
    **_entries("eva02_small_patch14_224", "mim_in22k", 21_621_120, SMALL | EVA02 | NO_HEAD, OPENAI),
    **_entries("eva02_small_patch14_336", "mim_in22k_ft_in1k", 22_129_000, SMALL | EVA02 | IMG336, OPENAI.crop(1.0)),
    **_entries("eva02_tiny_patch14_224", "mim_in22k", 5_502_144, TINY | EVA02 | NO_HEAD, OPENAI),
    **_entries("eva02_tiny_patch14_336", "mim_in22k_ft_in1k", 5_756_584, TINY | EVA02 | IMG336, OPENAI.crop(1.0)),
    # LV-ViT (Jiang et al., 2021), weights of the official repository TokenLabeling.
    "lvvit_t.tlt_in1k": ZooEntry(8_534_720, {"embed_dim": 240, "depth": 12, "num_heads": 4}, IMAGENET, LVViT),
    "lvvit_s.tlt_in1k": ZooEntry(26_151_824, SMALL | {"depth": 16, "skip_lam": 2.0}, IMAGENET, LVViT),
    "lvvit_m.tlt_in1k": ZooEntry(55_830_544, MEDIUM | {"depth": 20, "skip_lam": 2.0}, IMAGENET.crop(1.0), LVViT),
    "lvvit_l.tlt_in1k": ZooEntry(150_473_552, BASE | LVVIT_L, IMAGENET.crop(1.0), LVViT),
}
# fmt: on

# Models of any size, which overrides determine, without pretrained weights. Models of transformers have these names.
GENERIC = {"vit": ZooEntry(0, {}, IMAGENET)}
