"""Models in the form of transformers: the configuration and the tensors of the family that represents them.

A family represents a model if its configuration, read again, describes the same model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tcvit_jax.convert import names
from tcvit_jax.convert.directory import CONFIG
from tcvit_jax.convert.fields import FIELDS, TOWER_OF
from tcvit_jax.convert.transformers import read_config
from tcvit_jax.errors import InputError, invalid
from tcvit_jax.models import ViT, create_model
from tcvit_jax.models.embedding import PatchEmbedding
from tcvit_jax.models.layers import mlp_width

_ACTIVATIONS = {
    "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "silu": "silu", "relu": "relu",
}  # fmt: skip
# The class names of models without a classifier, and of those with one, and the prefix of the encoder in the latter.
_CLASSES = {
    "vit": ("ViTModel", "ViTForImageClassification", "vit."),
    "deit": ("DeiTModel", "DeiTForImageClassification", "deit."),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification", "dinov2."),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification", "dinov2_with_registers.",
    ),
    "dinov3_vit": ("DINOv3ViTModel", "DINOv3ViTModel", ""),
    "clip_vision_model": ("CLIPVisionModel", "CLIPForImageClassification", "vision_model."),
    "siglip_vision_model": ("SiglipVisionModel", "SiglipForImageClassification", "vision_model."),
}  # fmt: skip
_OUTSIDE = ("classifier.", "cls_classifier.", "distillation_classifier.", names.PROJECTION)
# Fields that are compared as they are.
_COMPARED = (
    "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "class_token", "distilled",
    "reg_tokens", "pos_embed", "rope_type", "pre_norm", "qk_norm", "norm_eps", "act_layer", "qkv_bias", "proj_bias",
    "mlp_bias", "scale_attn_inner", "scale_mlp", "final_norm", "skip_lam",
)  # fmt: skip


@dataclass(frozen=True)
class Export:
    """A model in the form of transformers.

    Attributes:
        config: Content of `config.json`.
        tensors: Tensors by their names on disk.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]


def export(
    model: ViT,
    tensors: Mapping[str, np.ndarray],
    subject: str | Path,
    model_type: str = "",
    labels: Sequence[str] | None = None,
) -> Export:
    """Return a model in the form of the family that represents it.

    Args:
        model: The model. Its reducer and dropout rates are not part of the result.
        tensors: Its tensors with the names of the parameter table.
        subject: What is exported, for errors.
        model_type: The family that is tried first, and the only one that errors name.
        labels: Names of the classes.

    Returns:
        The configuration and the tensors.

    Raises:
        InputError: No family represents the model. The message names the field.
    """
    if type(model).EMBEDDING_CLASS is not PatchEmbedding:
        raise invalid(subject, f"{model.variant} has a patch embedding that no model of transformers has")
    # The encoder of MAE masks patches in transformers. Without that it is a ViT.
    preferred = "vit" if model_type == "vit_mae" else model_type
    candidates = [preferred] if preferred in _CLASSES else []
    candidates += [name for name in _CLASSES if name != preferred]
    problems: list[tuple[int, str]] = []
    for name in candidates:
        result, mismatches = _try(model, tensors, name, labels)
        if not mismatches:
            return result
        problems.append((len(mismatches), mismatches[0]))
    first = problems[:1] if preferred in _CLASSES else sorted(problems, key=lambda problem: problem[0])[:1]
    raise invalid(subject, first[0][1], "no model of transformers represents it")


def _try(
    model: ViT, tensors: Mapping[str, np.ndarray], model_type: str, labels: Sequence[str] | None
) -> tuple[Export, list[str]]:
    """Return a model in the form of a family, and one sentence for each field that it does not represent."""
    result, others = _export(model, tensors, model_type, labels)
    # Shapes that follow from fields are left out or expected ones, so that an error names the field.
    shapes = {name: tensor.shape for name, tensor in result.tensors.items() if "embeddings.position" not in name}
    if model_type.startswith("dinov2") and "classifier.weight" in shapes:
        shapes["classifier.weight"] = (model.num_classes, 2 * model.embed_dim)
    try:
        description = read_config(result.config, Path(CONFIG), shapes)
        other = create_model("vit", **description.overrides)
    except InputError as error:
        return result, [str(error).removeprefix(f"{CONFIG}: "), *_COMPARED]
    actual, expected = _facts(model), _facts(other)
    mismatches: list[str] = []
    for name in actual:
        if actual[name] != expected[name]:
            is_derived = name in ("fc_norm", "mlp_hidden")
            value, required = (
                (actual[name], expected[name]) if is_derived else (getattr(model, name), getattr(other, name))
            )
            mismatches.append(f"{name}={value!r}: must be {required!r} for model_type={model_type!r}")
    mismatches += [f"{name}: model_type={model_type!r} has no such tensor" for name in others]
    return result, mismatches


def _facts(model: ViT) -> dict[str, Any]:
    """Return what two models must have in common to have the same outputs. Keys are fields."""
    has_positions = model.pos_embed == "learn" and not model.no_embed_class
    is_default_norm = model.global_pool == "avg" and model.final_norm
    return {
        # Without a classifier, transformers returns all tokens, which can be pooled in any way.
        "global_pool": model.global_pool if model.num_classes or model.global_pool == "map" else "",
        **{name: getattr(model, name) for name in _COMPARED},
        "mlp_hidden": mlp_width(model.embed_dim, model.mlp_ratio, model.mlp_hidden),
        "mlp_layer": model.mlp_layer == "mlp",
        "key_bias": model.key_bias and model.qkv_bias,
        "init_values": bool(model.init_values),
        "no_embed_reg": model.reg_tokens > 0 and has_positions and not model.no_embed_reg,
        "rope_temperature": model.rope_temperature if model.rope_type else 0,
        "dist_head": not model.distilled or model.dist_head or not model.num_classes,
        "fc_norm": is_default_norm if model.fc_norm is None else model.fc_norm,
    }


def _export(
    model: ViT, tensors: Mapping[str, np.ndarray], model_type: str, labels: Sequence[str] | None
) -> tuple[Export, list[str]]:
    """Return a model in the form of a family, and the tensors that have no name in it."""
    tensors, is_gated = dict(tensors), model.mlp_layer != "mlp"
    is_projected = model_type == "clip_vision_model" and model.num_classes > 0 and model.global_pool == "token"
    if is_projected:
        # A projection has no bias, no names of classes, and is not zero, as a new classifier is.
        is_projected = labels is None and not tensors["head.bias"].any() and bool(tensors["head.weight"].any())
    if is_projected:
        del tensors["head.bias"]
    if model.no_embed_class and "pos_embed" in tensors:
        zeros = np.zeros((1, model.class_tokens, model.embed_dim), np.float32)
        tensors["pos_embed"] = np.concatenate([zeros, tensors["pos_embed"]], axis=1)
    values = (("gate", "value") if is_gated else ("value",)) if model_type == "dinov3_vit" else ()
    parts = names.split(tensors, separate_qkv=True, mlp_parts=values, joins_pooling=True)
    renamed, others = names.rename(parts, _table(model, model_type, is_gated, is_projected))
    if model_type.startswith("dinov"):
        # A token that replaces masked patches in training.
        axes = 2 if model_type == "dinov3_vit" else 1
        renamed["embeddings.mask_token"] = np.zeros((1,) * axes + (model.embed_dim,), np.float32)
    if model_type == "dinov3_vit" and not model.reg_tokens:
        renamed["embeddings.register_tokens"] = np.zeros((1, 0, model.embed_dim), np.float32)
    if model_type == "clip_vision_model" and not model.final_norm:
        # The class has a norm that its classifier does not read.
        renamed["post_layernorm.weight"] = np.ones(model.embed_dim, np.float32)
        renamed["post_layernorm.bias"] = np.zeros(model.embed_dim, np.float32)
    architecture, classifier, prefix = _CLASSES[model_type]
    has_classifier = any(name.startswith(_OUTSIDE) for name in renamed) and not is_projected
    if has_classifier:
        architecture = classifier + ("WithTeacher" if model_type == "deit" and model.dist_head else "")
    elif is_projected:
        architecture = "CLIPVisionModelWithProjection"
    is_prefixed = has_classifier or prefix == "vision_model."
    stored = {
        f"{prefix}{name}" if is_prefixed and not name.startswith(_OUTSIDE) else name: np.ascontiguousarray(tensor)
        for name, tensor in renamed.items()
    }
    config = {"model_type": model_type, **_fields(model, model_type, is_gated)}
    composite = next((name for name, tower in TOWER_OF.items() if tower == model_type and has_classifier), None)
    if composite:
        config = {"model_type": composite, "vision_config": config, "text_config": {}}
    classes = _classes(model, labels) if has_classifier else {}
    return Export({"architectures": [architecture], **config, **classes}, stored), others


def _table(model: ViT, model_type: str, is_gated: bool, is_projected: bool) -> tuple[names.Row, ...]:
    """Return the rows of `names.FAMILIES` of a model."""
    key = model_type.removesuffix("_vision_model").removesuffix("_with_registers")
    if model_type == "deit" and model.num_classes and model.dist_head:
        key = "deit_with_teacher"
    elif key in ("dinov2", "dinov3_vit") and is_gated:
        key = f"{key}_gated"
    elif is_projected:
        key = "clip_with_projection"
    return names.FAMILIES[key]


def _fields(model: ViT, model_type: str, is_gated: bool) -> dict[str, Any]:
    """Return the fields of the configuration of a family."""
    height, width = model.img_size
    mlp_hidden = mlp_width(model.embed_dim, model.mlp_ratio, model.mlp_hidden)
    rows = -(-mlp_hidden * 3 // 2) if is_gated else mlp_hidden
    values: dict[str, Any] = {
        "hidden_size": model.embed_dim, "num_hidden_layers": model.depth, "num_attention_heads": model.num_heads,
        "intermediate_size": mlp_hidden, "hidden_act": _ACTIVATIONS.get(model.act_layer, model.act_layer),
        "layer_norm_eps": model.norm_eps, "image_size": height if height == width else [height, width],
        "patch_size": model.patch_size, "num_channels": model.in_chans, "qkv_bias": model.qkv_bias,
        "mlp_ratio": _ratio(rows, model.embed_dim), "layerscale_value": model.init_values or 1.0,
        "use_swiglu_ffn": is_gated, "num_register_tokens": model.reg_tokens, "projection_dim": model.num_classes or 512,
        "vision_use_head": model.global_pool == "map", "rope_theta": model.rope_temperature,
        "query_bias": model.qkv_bias, "key_bias": model.qkv_bias and model.key_bias, "value_bias": model.qkv_bias,
        "proj_bias": model.proj_bias, "mlp_bias": model.mlp_bias, "use_gated_mlp": is_gated,
    }  # fmt: skip
    if model_type.startswith("dinov2") and is_gated:
        # The configuration does not say the activation of the gate.
        values["hidden_act"] = "gelu"
    return {name: values[name] for name in FIELDS[model_type]}


def _ratio(rows: int, width: int) -> float:
    """Return the number that, times `width` and rounded down, is `rows`; an integer if there is one."""
    if rows % width == 0:
        return rows // width
    ratio = rows / width
    return ratio if int(width * ratio) == rows else math.nextafter(ratio, math.inf)


def _classes(model: ViT, labels: Sequence[str] | None) -> dict[str, Any]:
    """Return the names of the classes."""
    if labels is None or len(labels) != model.num_classes:
        labels = [f"LABEL_{index}" for index in range(model.num_classes)]
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
