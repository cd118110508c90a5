"""The `config.json` of a model of transformers as fields of a model, checked against the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tcvit_jax.convert import names
from tcvit_jax.convert.fields import COMPOSITE, FIELDS, INTEGER_SIZES, TOWER_OF, Fields
from tcvit_jax.convert.positions import TORCH_BICUBIC
from tcvit_jax.convert.problems import shorten
from tcvit_jax.errors import cannot_read, kind_of
from tcvit_jax.models.parameters import BLOCK

Shapes = Mapping[str, tuple[int, ...]]
# Resampling of position embeddings. Only DINOv2 with registers has antialiasing.
PLAIN, ANTIALIASED = (TORCH_BICUBIC, False), ("cubic", True)


@dataclass(frozen=True)
class Description:
    """A model of transformers in the words of this project.

    Attributes:
        model_type: Type of the image encoder, a key of `fields.FIELDS`.
        overrides: Fields for `create_model("vit", **overrides)`.
        image_size: `(height, width)` of the config.
        resampling: Method and antialiasing for position embeddings of another size.
        labels: Names of the classes, or None if there are none or they are `LABEL_0`, `LABEL_1`, ...
        ignored: Regular expressions of canonical names of tensors that the model does not use.
        notes: Where the outputs are not those of transformers, one sentence each.
    """

    model_type: str
    overrides: dict[str, Any]
    image_size: tuple[int, int]
    resampling: tuple[str, bool]
    labels: list[str] | None = None
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_config(config: Mapping[str, Any], path: Path, shapes: Shapes) -> Description:
    """Read the config of a model, and check it against the shapes of its tensors.

    Args:
        config: The content of `config.json`.
        path: The file, for errors.
        shapes: Shapes of the tensors by their names in the file.

    Returns:
        The description of the image encoder, with the classifier or projection that is among the tensors.

    Raises:
        InputError: The type of the model is not supported, or a field has a wrong type, cannot be represented, or does
            not match the tensors. The message names the field.
    """
    named_type = config.get("model_type")
    if not isinstance(named_type, str) or named_type not in {*FIELDS, *TOWER_OF}:
        types = ", ".join(sorted([*FIELDS, *TOWER_OF]))
        raise cannot_read(path, f"model_type={shorten([repr(named_type)])}: must be one of {types}")
    model_type = TOWER_OF.get(named_type, named_type)
    fields = _fields(config, model_type, path)
    tensors = _Tensors(shapes, fields)
    overrides = _common(fields, tensors, model_type)
    labels = _read_labels(config, fields, tensors)
    _check_architecture(config, path, tensors)
    ignored: tuple[str, ...] = ()
    notes: list[str] = []
    if model_type == "deit":
        overrides |= {"distilled": True, "dist_head": tensors.has("head_dist.weight")}
    elif model_type in ("dinov2", "dinov2_with_registers"):
        overrides |= _dinov2(fields, tensors)
    elif model_type == "dinov3_vit":
        overrides |= _dinov3(fields, tensors)
    elif model_type == "clip_vision_model":
        overrides |= {"pre_norm": True}
        if tensors.is_projected:
            width = Fields(config, fields.defaults, path).integer("projection_dim")
            tensors.check("projection_dim", width, "head.weight", 0)
        elif tensors.has("head.weight"):
            # The classifier of transformers reads the mean of the patch tokens without the final norm.
            overrides |= {"global_pool": "avg", "fc_norm": False, "final_norm": False}
            ignored = (r"norm\..*",)
    elif model_type == "siglip_vision_model":
        is_pooled = fields.boolean("vision_use_head") and not tensors.has("head.weight")
        overrides |= {"class_token": False, "fc_norm": False, "global_pool": "map" if is_pooled else "avg"}
        if not is_pooled and not tensors.has("head.weight"):
            notes.append("vision_use_head=False: transformers has no features; those here are the mean of the tokens")
    tensors.check_positions(overrides, fields)
    return Description(
        model_type=model_type,
        overrides=overrides,
        image_size=overrides["img_size"],
        resampling=ANTIALIASED if model_type in ("dinov2_with_registers", "dinov3_vit") else PLAIN,
        labels=labels,
        ignored=ignored,
        notes=tuple(notes),
    )


def _fields(config: Mapping[str, Any], model_type: str, path: Path) -> Fields:
    """Return the fields of the image encoder, and check the names of all fields."""
    fields = Fields(config, FIELDS[model_type], path)
    if config["model_type"] == model_type:
        fields.check_names()
        return fields
    outer = Fields({name: value for name, value in config.items() if name not in COMPOSITE}, {}, path)
    outer.check_names()
    section, replacement = (_object(config, key, path) for key in ("vision_config", "vision_config_dict"))
    if replacement is not None and model_type == "siglip_vision_model":
        raise outer.error("vision_config_dict", "absent, because SigLIP does not read it", replacement)
    section = dict(section or {})
    if replacement is not None:
        # It replaces all fields of the model in `vision_config`, those that it leaves out by their defaults.
        section = {name: value for name, value in section.items() if name not in FIELDS[model_type]}
        section |= replacement
    nested = Fields(section, FIELDS[model_type], path, "vision_config.")
    if section.get("model_type", model_type) != model_type:
        raise nested.error("model_type", repr(model_type))
    nested.check_names()
    return nested


def _object(config: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any] | None:
    """Return a field that is a JSON object, or None."""
    value = config.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise cannot_read(path, f"{name}: expected a JSON object, got {kind_of(value)}")
    return cast("Mapping[str, Any] | None", value)


class _Tensors:
    """Shapes of the tensors of a file by canonical name or part."""

    def __init__(self, shapes: Shapes, fields: Fields) -> None:
        self._fields = fields
        self._shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._blocks: dict[str, str] = {}
        for name, shape in shapes.items():
            rows = (names.row_of(stripped) for stripped in names.strip_prefixes(name))
            located = next((each for each in rows if each is not None), None)
            if located is not None:
                row, block = located
                self._shapes.setdefault(row.target, (name, tuple(shape)))
                if BLOCK in row.name:
                    self._blocks.setdefault(block, name)
        if not self._shapes:
            others = "only tensors of a text encoder" if any("text_model." in name for name in shapes) else "no tensor"
            raise cannot_read(fields.path, f"the weights have {others}, expected those of an image encoder")

    def has(self, target: str) -> bool:
        """Return whether there is a tensor."""
        return target in self._shapes

    @property
    def is_projected(self) -> bool:
        """Whether the head is the projection of CLIP, and not a classifier."""
        return self._shapes.get("head.weight", ("", ()))[0].endswith(names.PROJECTION)

    def axis(self, target: str, axis: int) -> int | None:
        """Return the length of an axis, or None."""
        _, shape = self._shapes.get(target, ("", ()))
        return shape[axis] if -len(shape) <= axis < len(shape) else None

    def check(self, field: str, value: int, target: str, axis: int) -> None:
        """Check that a field is the length of an axis, if there is such a tensor.

        Raises:
            InputError: It is not.
        """
        length = self.axis(target, axis)
        if length is not None and length != value:
            name, shape = self._shapes[target]
            raise self._fields.error(field, f"{length}, because {name} has shape {shape}", value)

    def check_depth(self, depth: int) -> None:
        """Check the number of blocks."""
        if depth != len(self._blocks):
            count = len(self._blocks)
            last = max(self._blocks, key=lambda block: (len(block), block), default="")
            reason = f", the last with {self._blocks[last]}" if last else ""
            raise self._fields.error(
                "num_hidden_layers", f"{count}, because the file has {count} blocks{reason}", depth
            )

    def check_bias(self, field: str, value: bool, target: str) -> None:
        """Check that a field says whether there is a bias."""
        weight = target.replace(".bias", ".weight")
        if self.has(weight) and self.has(target) != value:
            name, _ = self._shapes[weight]
            bias = name.removesuffix("weight") + "bias"
            problem = f"the file has no {bias}" if value else f"the file has {bias}"
            raise self._fields.error(field, f"{str(not value).lower()}, because {problem}", value)

    def check_positions(self, overrides: Mapping[str, Any], fields: Fields) -> None:
        """Check that the number of positions is that of the image size."""
        count = self.axis("pos_embed", -2)
        if count is None or overrides.get("pos_embed") == "none":
            return
        height, width = (side // overrides["patch_size"] for side in overrides["img_size"])
        prefix = int(overrides.get("class_token", True)) + int(overrides.get("distilled", False))
        if count != prefix + height * width:
            name, shape = self._shapes["pos_embed"]
            raise fields.error("image_size", f"that of {count - prefix} patches, because {name} has shape {shape}")


def _common(fields: Fields, tensors: _Tensors, model_type: str) -> dict[str, Any]:
    """Return the overrides that all families have."""
    is_integer = model_type in INTEGER_SIZES
    width, depth = fields.integer("hidden_size"), fields.integer("num_hidden_layers")
    heads, channels = fields.integer("num_attention_heads"), fields.integer("num_channels")
    if width % heads:
        raise fields.error("num_attention_heads", f"a divisor of hidden_size={width}")
    image_size, patch = (
        fields.size("image_size", is_integer=is_integer),
        fields.size("patch_size", is_integer=is_integer),
    )
    if patch[0] != patch[1]:
        raise fields.error("patch_size", "square")
    if min(image_size) < patch[0]:
        raise fields.error("image_size", f">= patch_size={patch[0]}")
    kernel = "patch_embed.proj.weight"
    for target, axis in ((kernel, 0), ("cls_token", -1), ("pos_embed", -1), (f"blocks.{BLOCK}.norm1.weight", 0)):
        tensors.check("hidden_size", width, target, axis)
    tensors.check("num_channels", channels, kernel, 1)
    for axis in (2, 3):
        tensors.check("patch_size", patch[0], kernel, axis)
    tensors.check_depth(depth)
    overrides: dict[str, Any] = {
        "img_size": image_size, "patch_size": patch[0], "in_chans": channels, "embed_dim": width, "depth": depth,
        "num_heads": heads, "norm_eps": fields.number("layer_norm_eps"), "act_layer": fields.activation(),
        "num_classes": tensors.axis("head.weight", 0) or 0, "global_pool": "token",
    }  # fmt: skip
    if any(side % patch[0] for side in image_size):
        overrides["allow_remainder"] = True
    if "intermediate_size" in fields.defaults:
        mlp_hidden = overrides["mlp_hidden"] = fields.integer("intermediate_size")
        for part in ("fc1", "value", "gate"):
            tensors.check("intermediate_size", mlp_hidden, f"blocks.{BLOCK}.mlp.{part}.weight", 0)
    if "qkv_bias" in fields.defaults:
        overrides["qkv_bias"] = fields.boolean("qkv_bias")
        tensors.check_bias("qkv_bias", overrides["qkv_bias"], f"blocks.{BLOCK}.attn.q.bias")
    return overrides


def gated_width(hidden_size: int, mlp_ratio: float) -> int:
    """Return the width of the gated MLP of DINOv2: two thirds of the plain one, rounded up to a multiple of 8."""
    return (int(int(hidden_size * mlp_ratio) * 2 / 3) + 7) // 8 * 8


def _dinov2(fields: Fields, tensors: _Tensors) -> dict[str, Any]:
    width, ratio = fields.integer("hidden_size"), fields.number("mlp_ratio")
    is_gated = fields.boolean("use_swiglu_ffn")
    mlp_hidden = gated_width(width, ratio) if is_gated else int(width * ratio)
    length = tensors.axis(f"blocks.{BLOCK}.mlp.fc1.weight", 0)
    if length is not None and length != mlp_hidden * (1 + is_gated):
        raise fields.error("mlp_ratio", f"the ratio of an MLP whose first layer has {length} rows")
    overrides: dict[str, Any] = {"mlp_hidden": mlp_hidden, "init_values": _initial_scale(fields)}
    if is_gated:
        # The activation of the gate is fixed, whatever `hidden_act` says.
        overrides |= {"mlp_layer": "swiglu_packed", "act_layer": "silu"}
    if "num_register_tokens" in fields.defaults:
        count = fields.integer("num_register_tokens", 0)
        tensors.check("num_register_tokens", count, "reg_token", 1)
        overrides |= {"reg_tokens": count, "no_embed_reg": True}
    if tensors.has("head.weight"):
        # The classifier reads the class token and the mean of the patch tokens.
        tensors.check("2 * hidden_size", 2 * width, "head.weight", 1)
        overrides["global_pool"] = "token_avg"
    return overrides


def _dinov3(fields: Fields, tensors: _Tensors) -> dict[str, Any]:
    biases = {part: fields.boolean(f"{part}_bias") for part in ("query", "key", "value")}
    if biases["query"] != biases["value"]:
        raise fields.error("value_bias", f"that of query_bias={biases['query']!r}", biases["value"])
    if biases["key"] and not biases["query"]:
        raise fields.error("key_bias", "false with query_bias=false", True)
    for part in biases:
        tensors.check_bias(f"{part}_bias", biases[part], f"blocks.{BLOCK}.attn.{part[0]}.bias")
    is_gated, registers = fields.boolean("use_gated_mlp"), fields.integer("num_register_tokens", 0)
    tensors.check("num_register_tokens", registers, "reg_token", 1)
    proj_bias, mlp_bias = fields.boolean("proj_bias"), fields.boolean("mlp_bias")
    tensors.check_bias("proj_bias", proj_bias, f"blocks.{BLOCK}.attn.proj.bias")
    tensors.check_bias("mlp_bias", mlp_bias, f"blocks.{BLOCK}.mlp.fc2.bias")
    if tensors.has(f"blocks.{BLOCK}.mlp.gate.weight") != is_gated:
        raise fields.error("use_gated_mlp", f"{str(not is_gated).lower()}, as in the file", is_gated)
    return {
        "qkv_bias": biases["query"], "key_bias": biases["key"], "proj_bias": proj_bias, "mlp_bias": mlp_bias,
        "mlp_layer": "swiglu" if is_gated else "mlp", "init_values": _initial_scale(fields), "reg_tokens": registers,
        "pos_embed": "none", "rope_type": "dinov3", "rope_temperature": fields.number("rope_theta"),
    }  # fmt: skip


def _initial_scale(fields: Fields) -> float:
    """Return an initial factor of LayerScale, which these models always have, even with `layerscale_value=0`."""
    value = fields.config.get("layerscale_value", fields.defaults["layerscale_value"])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fields.error("layerscale_value", "a number", value)
    return float(value) if 0 < value <= 10 else 1e-5


def _check_architecture(config: Mapping[str, Any], path: Path, tensors: _Tensors) -> None:
    """Check that there are the heads of the class that wrote the file.

    Raises:
        InputError: One is missing, or `architectures` is not a list of names.
    """
    classes = config.get("architectures")
    if classes is None:
        return
    fields = Fields(config, {}, path)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in cast("list[Any]", classes)):
        raise fields.error("architectures", "a list of strings")
    first = cast("list[str]", classes)[0] if classes else ""
    missing = ""
    if first.endswith("WithProjection") and not tensors.is_projected:
        missing = names.PROJECTION
    elif first.endswith("ForImageClassificationWithTeacher"):
        heads = (("head.weight", "cls_classifier.weight"), ("head_dist.weight", "distillation_classifier.weight"))
        missing = next((name for target, name in heads if not tensors.has(target)), "")
    elif first.endswith("ForImageClassification") and (tensors.is_projected or not tensors.has("head.weight")):
        missing = "classifier.weight"
    if missing:
        raise fields.error("architectures", f"a class without a head, because the file has no {missing}")


def _read_labels(config: Mapping[str, Any], fields: Fields, tensors: _Tensors) -> list[str] | None:
    """Return the names of the classes, and check their number."""
    labels, count = config.get("id2label"), tensors.axis("head.weight", 0)
    if labels is None:
        number = config.get("num_labels")
        if number is not None and count is not None and number != count and not tensors.is_projected:
            raise fields.error("num_labels", f"{count}, as in the classifier", number)
        return None
    if not isinstance(labels, Mapping):
        raise cannot_read(fields.path, f"id2label: expected a JSON object, got {kind_of(labels)}")
    if count is None or tensors.is_projected:
        return None
    by_index = {str(key): value for key, value in cast("Mapping[Any, Any]", labels).items()}
    if set(by_index) != {str(index) for index in range(count)}:
        raise cannot_read(
            fields.path,
            f"id2label: expected the classes 0 to {count - 1} of the classifier, got {len(by_index)} classes",
        )
    ordered = [str(by_index[str(index)]) for index in range(count)]
    return None if ordered == [f"LABEL_{index}" for index in range(count)] else ordered
