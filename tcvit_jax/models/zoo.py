"""Registry of pretrained models by timm name: sizes, number of parameters, and preprocessing.

Each model is one line. The tag after the dot names the training data; a name without a tag refers to its first line, as
in timm. Overrides list only the values that differ from the defaults of the architecture. All values are those of timm
1.0.31 and, for LV-ViT, of the TokenLabeling repository.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tcvit_jax.errors import out_of_range, unknown
from tcvit_jax.models.image_preprocessing import Preprocessing
from tcvit_jax.models.lvvit import LVViT
from tcvit_jax.models.vit import ViT


@dataclass(frozen=True)
class ZooEntry:
    """Registry entry of one pretrained model.

    Attributes:
        parameters: Number of parameters.
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

P8 = {"patch_size": 8}
P32 = {"patch_size": 32}
IMG196, IMG256, IMG336, IMG384 = ({"img_size": size} for size in (196, 256, 336, 384))
NO_HEAD = {"num_classes": 0}
IN21K = {"num_classes": 21843}
DISTILLED = {"distilled": True}
DEIT3 = {"no_embed_class": True, "init_values": 1e-6}
GAP = {"class_token": False, "global_pool": "avg", "fc_norm": False, "qkv_bias": False, "init_values": 1e-6}
EVA = {"patch_size": 14, "global_pool": "avg"}
CLIP = {"pre_norm": True, "norm_eps": 1e-5}
CLIP_512 = {"num_classes": 512}
QGELU = {"act_layer": "quick_gelu", "num_classes": 512}
DINOV2 = {"patch_size": 14, "img_size": 518, "num_classes": 0, "init_values": 1e-5}
LVVIT_L = {"depth": 24, "skip_lam": 3.0, "stem_channels": 128, "img_size": 448}
REG4 = {"reg_tokens": 4, "no_embed_class": True}

IMAGENET = Preprocessing()
INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = Preprocessing((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

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
    # LV-ViT (Jiang et al., 2021), weights of the official repository TokenLabeling.
    "lvvit_t.tlt_in1k": ZooEntry(8_534_720, {"embed_dim": 240, "depth": 12, "num_heads": 4}, IMAGENET, LVViT),
    "lvvit_s.tlt_in1k": ZooEntry(26_151_824, SMALL | {"depth": 16, "skip_lam": 2.0}, IMAGENET, LVViT),
    "lvvit_m.tlt_in1k": ZooEntry(55_830_544, MEDIUM | {"depth": 20, "skip_lam": 2.0}, IMAGENET.crop(1.0), LVViT),
    "lvvit_l.tlt_in1k": ZooEntry(150_473_552, BASE | LVVIT_L, IMAGENET.crop(1.0), LVViT),
}
# fmt: on


def override_names(architecture: type[ViT]) -> tuple[str, ...]:
    """Return the names of the overrides that `create_model` accepts for an architecture."""
    internal = {"variant", "reducer", "removed", "parent", "name"}
    return tuple(field.name for field in fields(architecture) if field.name not in internal)


# Override names of all architectures.
OVERRIDE_NAMES = tuple(dict.fromkeys(key for architecture in (ViT, LVViT) for key in override_names(architecture)))


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Return the sorted model names that match a shell pattern.

    Args:
        pattern: Shell pattern, such as `"deit*"`. With a dot, it matches names with tags, such as `"*.dino"`.
        pretrained: Whether to list names with tags, one per set of pretrained weights.
    """
    has_tags = pretrained or "." in pattern
    return sorted({name for name in (ZOO if has_tags else _default_tags()) if fnmatch.fnmatchcase(name, pattern)})


def full_name(name: str) -> str:
    """Return a model name with its tag, such as `"deit_small_patch16_224.fb_in1k"` for `"deit_small_patch16_224"`.

    Raises:
        InputError: The name is unknown.
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  (names are also read from files)
        raise out_of_range("model", name, "a name of tc.list_models()")
    if name in ZOO:
        return name
    full_names = _default_tags()
    if name not in full_names:
        raise unknown("model", name, list(ZOO) if "." in name else list(full_names))
    return full_names[name]


def repository(name: str) -> str:
    """Return the Hugging Face repository of a model's weights.

    Models with QuickGELU share the repository of the same model with GELU.
    """
    return "timm/" + full_name(name).replace("_quickgelu", "")


def name_from_repository(repo: str) -> str:
    """Return the name of the model whose weights a Hugging Face repository contains.

    Raises:
        InputError: The repository matches no registered model.
    """
    return next((name for name in ZOO if repository(name) == repo), None) or full_name(repo.removeprefix("timm/"))


def get_entry(name: str) -> ZooEntry:
    """Return the registry entry of a model name, with or without a tag."""
    return ZOO[full_name(name)]


def preprocessing(name: str) -> Preprocessing:
    """Return the preprocessing of a model's pretrained weights."""
    return get_entry(name).preprocessing


def _default_tags() -> dict[str, str]:
    """Return the full name for every name without a tag."""
    return {name.partition(".")[0]: name for name in reversed(ZOO)}
