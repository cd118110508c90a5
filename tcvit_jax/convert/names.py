"""Names of tensors in the files of transformers and of timm's Eva models.

Each row of a table pairs a name in a file with the name of the same tensor here, and serves reading and writing. The
names here are those of the parameter tables (`models/tables.py`), except for parts: files store queries, keys and
values in separate tensors, or the two halves of a gated MLP, or queries, keys and values of attention pooling in one
tensor. The names of parts are `attn.q`, `attn.k`, `attn.v`, `mlp.gate`, `mlp.value` and `attn_pool.in_proj`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tcvit_jax.models.parameters import BLOCK

# Prefixes of modules that contain a model, and those of the base models of transformers.
PREFIXES = (
    "module.", "_orig_mod.", "backbone.", "encoder.", "student.", "teacher.", "model.", "base_model.",
    "vit.", "deit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit.", "clip.", "siglip.", "vision_model.",
)  # fmt: skip
# Tensors of the files of transformers that do not belong to an image encoder: mask tokens and decoders of pretraining,
# poolers, text encoders and indices; and rotary tables, which are computed.
IGNORED = (
    r"(embeddings\.)?(mask_token|position_ids)|(pooler|decoder|text_model|text_projection)\..*|logit_(scale|bias)"
    r"|(.*\.)?rope\w*\..*|.*\.bias_mask"
)
# The part of a tensor that each of its tensors in a file holds, in order.
PARTS = {"attn.qkv": ("q", "k", "v"), "mlp.fc1": ("gate", "value")}
# The tensors that one tensor in a file holds, with their first and last row in units of a fraction of its rows.
JOINED = {"attn_pool.in_proj": (("attn_pool.q", (0, 1, 3)), ("attn_pool.kv", (1, 3, 3)))}
_PART = re.compile(r"(blocks\.[^.]+)\.(?:attn\.([qkv])|mlp\.(gate|value))\.(weight|bias)")


@dataclass(frozen=True)
class Row:
    """The names of one tensor. `{block}` is a placeholder for the block number.

    Attributes:
        target: Name of the tensor of the parameter table, or of a part of it.
        name: Name in a file.
        memory: Name in memory of version 5 of transformers, which its files may have as well.
        axes: Number of leading axes of length 1 that the tensor in a file does not have.
        zeros: Tensors of the table that files with this name leave out because they are zero.
    """

    target: str
    name: str
    memory: str = ""
    axes: int = 0
    zeros: tuple[str, ...] = ()


def _layer(target: str, name: str, memory: str = "") -> tuple[Row, ...]:
    """Return the rows of a weight and a bias."""
    return tuple(
        Row(f"{target}.{part}", f"{name}.{part}", f"{memory}.{part}" if memory else "") for part in ("weight", "bias")
    )


def _block(target: str, name: str, memory: str = "", *, disk: str, loaded: str = "") -> tuple[Row, ...]:
    """Return the rows of a weight and a bias of every block.

    Args:
        target: Name in a block of the table.
        name: Name in a block of the file.
        memory: Name in a block in memory, if it differs.
        disk: Name of a block in the file.
        loaded: Name of a block in memory, if it differs.
    """
    is_renamed = bool(memory or loaded)
    return _layer(
        f"blocks.{BLOCK}.{target}", f"{disk}.{name}", f"{loaded or disk}.{memory or name}" if is_renamed else ""
    )


_EMBEDDINGS = (
    Row("cls_token", "embeddings.cls_token"),
    Row("pos_embed", "embeddings.position_embeddings"),
    *_layer("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    *_layer("norm", "layernorm"),
)
_CLASSIFIER = _layer("head", "classifier")


def _vit() -> tuple[Row, ...]:
    disk, loaded = f"encoder.layer.{BLOCK}", f"layers.{BLOCK}"
    names = (
        ("norm1", "layernorm_before", ""),
        ("attn.q", "attention.attention.query", "attention.q_proj"),
        ("attn.k", "attention.attention.key", "attention.k_proj"),
        ("attn.v", "attention.attention.value", "attention.v_proj"),
        ("attn.proj", "attention.output.dense", "attention.o_proj"),
        ("norm2", "layernorm_after", ""),
        ("mlp.fc1", "intermediate.dense", "mlp.fc1"),
        ("mlp.fc2", "output.dense", "mlp.fc2"),
    )
    blocks = tuple(row for each in names for row in _block(*each, disk=disk, loaded=loaded))
    return (*_EMBEDDINGS, *blocks, *_CLASSIFIER)


def _dinov2(is_gated: bool) -> tuple[Row, ...]:
    disk = f"encoder.layer.{BLOCK}"
    mlp = (("mlp.fc1", "mlp.fc1", ""), ("mlp.fc2", "mlp.fc2", ""))
    if is_gated:
        mlp = (("mlp.fc1", "mlp.weights_in", ""), ("mlp.fc2", "mlp.weights_out", "mlp.down_proj"))
    names = (
        ("norm1", "norm1", ""),
        ("attn.q", "attention.attention.query", "attention.q_proj"),
        ("attn.k", "attention.attention.key", "attention.k_proj"),
        ("attn.v", "attention.attention.value", "attention.v_proj"),
        ("attn.proj", "attention.output.dense", "attention.o_proj"),
        ("norm2", "norm2", ""),
        *mlp,
    )
    blocks = tuple(row for each in names for row in _block(*each, disk=disk))
    return (*_EMBEDDINGS, Row("reg_token", "embeddings.register_tokens"), *blocks, *_scales(disk), *_CLASSIFIER)


def _scales(block: str, memory: str = "") -> tuple[Row, ...]:
    return tuple(
        Row(
            f"blocks.{BLOCK}.ls{index}.gamma", f"{block}.layer_scale{index}.lambda1",
            f"{memory}.layer_scale{index}.lambda1" if memory else "",
        )
        for index in (1, 2)
    )  # fmt: skip


def _dinov3(is_gated: bool) -> tuple[Row, ...]:
    disk, loaded = f"layer.{BLOCK}", f"model.layer.{BLOCK}"
    names = (
        ("norm1", "norm1"),
        ("attn.q", "attention.q_proj"),
        ("attn.k", "attention.k_proj"),
        ("attn.v", "attention.v_proj"),
        ("attn.proj", "attention.o_proj"),
        ("norm2", "norm2"),
        *((("mlp.gate", "mlp.gate_proj"),) if is_gated else ()),
        # Without a gate, the value is the complete first layer.
        ("mlp.value", "mlp.up_proj"),
        ("mlp.fc2", "mlp.down_proj"),
    )
    return (
        Row("cls_token", "embeddings.cls_token"),
        Row("reg_token", "embeddings.register_tokens"),
        *_layer("patch_embed.proj", "embeddings.patch_embeddings"),
        *(row for each in names for row in _block(*each, disk=disk, loaded=loaded)),
        *_scales(disk, loaded),
        *_layer("norm", "norm"),
    )


def _tower() -> tuple[Row, ...]:
    """Return the rows that the image encoders of CLIP and SigLIP share."""
    names = (
        ("norm1", "layer_norm1"),
        ("attn.q", "self_attn.q_proj"),
        ("attn.k", "self_attn.k_proj"),
        ("attn.v", "self_attn.v_proj"),
        ("attn.proj", "self_attn.out_proj"),
        ("norm2", "layer_norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    )
    return (
        Row("pos_embed", "embeddings.position_embedding.weight", axes=1),
        *_layer("patch_embed.proj", "embeddings.patch_embedding"),
        *(row for each in names for row in _block(*each, disk=f"encoder.layers.{BLOCK}")),
        *_layer("norm", "post_layernorm"),
    )


_CLIP = (Row("cls_token", "embeddings.class_embedding", axes=2), *_layer("norm_pre", "pre_layrnorm"), *_tower())
_POOLING = (
    Row("attn_pool.latent", "head.probe"),
    Row("attn_pool.in_proj.weight", "head.attention.in_proj_weight"),
    Row("attn_pool.in_proj.bias", "head.attention.in_proj_bias"),
    *_layer("attn_pool.proj", "head.attention.out_proj"),
    *_layer("attn_pool.norm", "head.layernorm"),
    *_layer("attn_pool.mlp.fc1", "head.mlp.fc1"),
    *_layer("attn_pool.mlp.fc2", "head.mlp.fc2"),
)
PROJECTION = "visual_projection.weight"
_DISTILLATION = Row("dist_token", "embeddings.distillation_token")

# The names of each family of transformers that are written.
FAMILIES: dict[str, tuple[Row, ...]] = {
    "vit": _vit(),
    "deit": (*_vit(), _DISTILLATION),
    "deit_with_teacher": (
        *(row for row in _vit() if row not in _CLASSIFIER), _DISTILLATION,
        *_layer("head", "cls_classifier"), *_layer("head_dist", "distillation_classifier"),
    ),
    "dinov2": _dinov2(is_gated=False),
    "dinov2_gated": _dinov2(is_gated=True),
    "dinov3_vit": _dinov3(is_gated=False),
    "dinov3_vit_gated": _dinov3(is_gated=True),
    "clip": (*_CLIP, *_CLASSIFIER),
    "clip_with_projection": (*_CLIP, Row("head.weight", PROJECTION, zeros=("head.bias",))),
    "siglip": (*_tower(), *_POOLING, *_CLASSIFIER),
}  # fmt: skip
# Names of timm's Eva models, which DINOv3 and EVA-02 are. Other tensors have the names of the parameter table.
EVA = (
    Row(f"blocks.{BLOCK}.ls1.gamma", f"blocks.{BLOCK}.gamma_1"),
    Row(f"blocks.{BLOCK}.ls2.gamma", f"blocks.{BLOCK}.gamma_2"),
)
# Names of timm's separate queries, keys and values, and gates and values.
TIMM_PARTS = tuple(
    row
    for target, name in (
        ("attn.q", "attn.q_proj"), ("attn.k", "attn.k_proj"), ("attn.v", "attn.v_proj"),
        ("mlp.gate", "mlp.fc1_g"), ("mlp.value", "mlp.fc1_x"),
    )
    for row in _block(target, name, disk=f"blocks.{BLOCK}")
)  # fmt: skip
# Version 5 of transformers has the two halves of DINOv2's packed layer in memory.
_DINOV2_MEMORY = tuple(
    row
    for target, name in (("mlp.gate", "mlp.gate_proj"), ("mlp.value", "mlp.up_proj"))
    for row in _block(target, name, disk=f"encoder.layer.{BLOCK}")
)
# Names of the official code of EVA-02, DINOv2 and DINOv3.
_OFFICIAL = (
    Row("reg_token", "storage_tokens"),
    *(
        row
        for target, name in (
            ("mlp.fc1", "mlp.w12"), ("mlp.gate", "mlp.w1"), ("mlp.value", "mlp.w2"), ("mlp.fc2", "mlp.w3"),
            ("mlp.norm", "mlp.ffn_ln"), ("attn.norm", "attn.inner_attn_ln"),
        )
        for row in _block(target, name, disk=f"blocks.{BLOCK}")
    ),
)  # fmt: skip


def _by_name() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    tables = (*FAMILIES.values(), EVA, TIMM_PARTS, _DINOV2_MEMORY, _OFFICIAL)
    for row in (row for table in tables for row in table):
        for name in (row.name, row.memory):
            other = rows.setdefault(name, row) if name else row
            if (other.target, other.axes) != (row.target, row.axes):
                raise ValueError(f"{name}: stands for {other.target} and {row.target}")
    return rows


# The row of each name that can be read.
BY_NAME = _by_name()
_NUMBER = re.compile(r"(?<![^.])[0-9]+(?=\.)")


def row_of(name: str) -> tuple[Row, str] | None:
    """Return the row of a name in a file and its block number, "" outside of blocks; None if there is no row."""
    number = _NUMBER.search(name)
    block = number[0] if number else ""
    template = f"{name[: number.start()]}{BLOCK}{name[number.end() :]}" if number else name
    row = BY_NAME.get(template)
    return None if row is None else (row, block)


def part_of(name: str) -> tuple[str, str] | None:
    """Return the tensor of the table and the part of it that a name stands for, or None.

    For example, `("blocks.0.attn.qkv.weight", "k")` for `blocks.0.attn.k.weight`.
    """
    match = _PART.fullmatch(name)
    if match is None:
        return None
    layer = "attn.qkv" if match[2] else "mlp.fc1"
    return f"{match[1]}.{layer}.{match[4]}", match[2] or match[3]


def joined(name: str) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """Return the tensors of the table that one tensor of a file holds, and their rows; empty for other names.

    Rows `(start, stop, count)` are the fractions `start / count` to `stop / count` of all rows.
    """
    layer, _, kind = name.rpartition(".")
    return tuple((f"{target}.{kind}", rows) for target, rows in JOINED.get(layer, ()))


def strip_prefixes(name: str) -> Iterator[str]:
    """Yield a name without its first 0, 1, 2, ... parts that are in `PREFIXES`."""
    yield name
    while prefix := next((each for each in PREFIXES if name.startswith(each)), ""):
        name = name[len(prefix) :]
        yield name


def split(
    tensors: Mapping[str, np.ndarray], *, separate_qkv: bool, mlp_parts: tuple[str, ...], joins_pooling: bool = False
) -> dict[str, np.ndarray]:
    """Split tensors of the parameter table into the parts that files store.

    Args:
        tensors: Tensors by name, with timm's layouts.
        separate_qkv: Whether queries, keys and values have separate tensors.
        mlp_parts: The parts of the first layer of the MLP: `("gate", "value")`, `("value",)` for a layer without a gate
            that has the name of a value, or empty.
        joins_pooling: Whether the queries, keys and values of attention pooling are one tensor, as in torch.

    Returns:
        Tensors by the names of the table and of parts, as views.
    """
    parts: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(blocks\.\d+)\.(attn|mlp)\.(qkv|q_bias|v_bias|fc1)\.?(weight|bias)?", name)
        if match and match[3] == "fc1" and mlp_parts:
            for part, rows in zip(mlp_parts, np.split(tensor, len(mlp_parts)), strict=True):
                parts[f"{match[1]}.mlp.{part}.{match[4]}"] = rows
        elif match and match[3] == "qkv" and separate_qkv:
            for part, rows in zip(PARTS["attn.qkv"], np.split(tensor, 3), strict=True):
                parts[f"{match[1]}.attn.{part}.{match[4]}"] = rows
        elif match and match[3] in ("q_bias", "v_bias") and separate_qkv:
            parts[f"{match[1]}.attn.{match[3][0]}.bias"] = tensor
        else:
            parts[name] = tensor
    if joins_pooling:
        for target, pieces in JOINED.items():
            for kind in ("weight", "bias"):
                names = [f"{piece}.{kind}" for piece, _ in pieces]
                if all(name in parts for name in names):
                    parts[f"{target}.{kind}"] = np.concatenate([parts.pop(name) for name in names])
    return parts


def rename(tensors: Mapping[str, np.ndarray], rows: tuple[Row, ...]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rename tensors as `rows` say, without the leading axes that files do not have.

    Args:
        tensors: Tensors by the names of the table and of parts, as `split` returns them.
        rows: Rows of a family.

    Returns:
        Tensors by their names in a file, and the names that have no row.
    """
    by_target = {row.target: row for row in rows}
    renamed: dict[str, np.ndarray] = {}
    others: list[str] = []
    for name, tensor in tensors.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        row = by_target.get(f"blocks.{BLOCK}.{name[block.end() :]}" if block else name)
        if row is None:
            others.append(name)
        else:
            renamed[row.name.replace(BLOCK, block[1] if block else "")] = tensor.reshape(tensor.shape[row.axes :])
    return renamed, others
