"""Weight file formats: naming conventions that do not depend on the architecture.

Names and layouts of the individual tensors are in the parameter table of the architecture (`models/tables.py`). Other
programs write the same tensors under other names; the aliases of a format map them to the names of the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tcvit_jax.models import tables

# Prefixes of modules that contain a model, which are removed if all names of a file have them.
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.")


@dataclass(frozen=True)
class Alias:
    """Another name of a tensor.

    Attributes:
        pattern: Regular expression that is searched in a name.
        replacement: Replacement of the match, as in `re.sub`.
        change: Conversion of a tensor with this name to the layout of the table; None if the layout is the same.
        zeros: Tensors of the table that a file with this name leaves out because they are zero.
    """

    pattern: str
    replacement: str = ""
    change: Callable[[np.ndarray], np.ndarray] | None = None
    zeros: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Tensors of a file that hold one tensor of the parameter table.

    Attributes:
        names: Names in the file. Several tensors are concatenated along their first axis.
        block: Index along the first axis of a tensor that stacks all blocks, or None.
        change: Conversion to the layout of the table, or None.
    """

    names: tuple[str, ...]
    block: int | None = None
    change: Callable[[np.ndarray], np.ndarray] | None = None

    def shape(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Return the shape of the tensor for the shapes of the tensors in the file, without allocating memory."""
        shape = tuple(shapes[0]) if self.block is None else tuple(shapes[0][1:])
        if self.change is not None:
            shape = self.change(np.broadcast_to(np.float32(0), shape)).shape
        return shape if len(shapes) == 1 else (sum(each[0] for each in shapes), *shape[1:])

    def assemble(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Return the tensor of the parameter table."""
        if len(tensors) > 1:
            return np.concatenate(tensors)
        tensor = tensors[0] if self.block is None else tensors[0][self.block]
        return tensor if self.change is None else self.change(tensor)


@dataclass(frozen=True)
class Format:
    """A naming convention for the tensors of a weight file.

    Attributes:
        name: Key of the format in the parameter tables, and its name in error messages.
        ignored: Regular expression of tensors that are not weights.
        pre_logits: Regular expression of the layer between the features and the classifier of some models, which the
            models of this project do not have.
        aliases: Names that other programs write.
        parts: Regular expression of tensors that are concatenated, whose second group is the part, the replacement, and
            the parts in their order; None if there are none.
        stacked: Prefix of tensors that stack all blocks along their first axis, and its replacement with the block
            number; None if there are none.
        resampling: Method and antialiasing for resampled position embeddings, as timm uses for this format.
    """

    name: str
    ignored: str
    pre_logits: str
    aliases: tuple[Alias, ...]
    parts: tuple[str, str, tuple[str, ...]] | None = None
    stacked: tuple[str, str] | None = None
    resampling: tuple[str, bool] = ("cubic", True)

    @cached_property
    def _compiled(self) -> tuple[tuple[re.Pattern[str], Alias], ...]:
        return tuple((re.compile(alias.pattern), alias) for alias in self.aliases)

    def sources(self, names: Collection[str], depth: int) -> Iterator[tuple[str, Source]]:
        """Yield the canonical name of each tensor that is not ignored, and its source.

        Args:
            names: Names in the file.
            depth: Number of blocks of the model.

        Yields:
            `(name in the parameter table, source in the file)`.
        """
        wrapper = wrapper_of(names)
        joined: dict[str, dict[str, str]] = {}
        for name in names:
            canonical_name, change = self.canonical_name(name.removeprefix(wrapper))
            part = re.fullmatch(self.parts[0], canonical_name) if self.parts else None
            if re.fullmatch(self.ignored, canonical_name):
                continue
            if self.parts and part:
                target = part.expand(self.parts[1])
                if part[2] in joined.setdefault(target, {}):  # yield a duplicate of the target
                    yield target, Source((name,))
                joined[target][part[2]] = name
            elif self.stacked and canonical_name.startswith(self.stacked[0]):
                for block in range(depth):
                    replacement = self.stacked[1].format(block=block)
                    yield canonical_name.replace(self.stacked[0], replacement, 1), Source((name,), block, change)
            else:
                yield canonical_name, Source((name,), change=change)
        for canonical_name, part_names in joined.items():
            order = self.parts[2] if self.parts else ()
            yield canonical_name, Source(tuple(part_names[part] for part in order if part in part_names))

    def canonical_name(self, name: str) -> tuple[str, Callable[[np.ndarray], np.ndarray] | None]:
        """Return the name of a tensor in the parameter table, and the conversion of the tensor, if any."""
        change = None
        for pattern, alias in self._compiled:
            name, count = pattern.subn(alias.replacement, name)
            change = alias.change if count and alias.change else change
        return name, change

    def is_one_of(self, name: str, tensors: Collection[str]) -> bool:
        """Return whether a tensor of a file is, or is a part of, one of `tensors` of the parameter table."""
        canonical_name, _ = self.canonical_name(name)
        part = re.fullmatch(self.parts[0], canonical_name) if self.parts else None
        if self.parts and part:
            canonical_name = part.expand(self.parts[1])
        if self.stacked:
            canonical_name = canonical_name.replace(self.stacked[0], self.stacked[1].format(block=0))
        return canonical_name in tensors

    def zeros(self, names: Collection[str]) -> frozenset[str]:
        """Return the tensors of the table that files with these names leave out because they are zero."""
        wrapper = wrapper_of(names)
        return frozenset(
            zero
            for pattern, alias in self._compiled
            if alias.zeros and any(pattern.search(name.removeprefix(wrapper)) for name in names)
            for zero in alias.zeros
        )


def wrapper_of(names: Collection[str]) -> str:
    """Return the prefix of `WRAPPERS` that all names share, such as `"module.model."`, or an empty string."""
    prefix = ""
    while names:
        wrapper = next((each for each in WRAPPERS if all(name.startswith(prefix + each) for name in names)), None)
        if wrapper is None:
            break
        prefix += wrapper
    return prefix


def format_of(names: Collection[str]) -> Format:
    """Return the format that the majority of the names belongs to."""
    return AUGREG if 2 * sum("/" in name for name in names) > len(names) else TIMM


# Parallel training and compilation.
_WRAPPED = (Alias(r"^(module\.|_orig_mod\.)+"),)
# LayerScale of the official DeiT-III code, and blocks and registers of the official DINOv2 code.
_DEIT_AND_DINO = (
    Alias(r"\.gamma_([12])$", r".ls\1.gamma"),
    Alias(r"^blocks\.\d+\.(?=\d+\.)", "blocks."),
    Alias(r"^register_tokens$", "reg_token"),
)
# The image encoder of OpenAI's CLIP and of OpenCLIP, whose projection has no bias.
_CLIP = (
    Alias(r"^conv1\.weight$", "patch_embed.proj.weight"),
    Alias(r"^class_embedding$", "cls_token", lambda tensor: tensor[None, None]),
    Alias(r"^positional_embedding$", "pos_embed", lambda tensor: tensor[None]),
    Alias(r"^ln_pre\.", "norm_pre."),
    Alias(r"^ln_post\.", "norm."),
    Alias(r"^transformer\.resblocks\.", "blocks."),
    Alias(r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    Alias(r"^(blocks\.\d+\.attn)\.in_proj_", r"\1.qkv."),
    Alias(r"^(blocks\.\d+\.attn)\.out_proj\.", r"\1.proj."),
    Alias(r"^(blocks\.\d+\.mlp)\.c_fc\.", r"\1.fc1."),
    Alias(r"^(blocks\.\d+\.mlp)\.c_proj\.", r"\1.fc2."),
    Alias(r"^proj$", "head.weight", np.transpose, ("head.bias",)),
)
# ViT, DeiT, DINOv2 and the image encoder of CLIP of the library transformers.
_TRANSFORMERS = (
    Alias(r"^(vit|deit|dinov2|dinov2_with_registers)\."),
    Alias(r"^embeddings\.class_embedding$", "cls_token", lambda tensor: tensor[None, None]),
    Alias(r"^embeddings\.position_embedding\.weight$", "pos_embed", lambda tensor: tensor[None]),
    Alias(r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    Alias(r"^pre_layrnorm\.", "norm_pre."),
    Alias(r"^post_layernorm\.", "norm."),
    Alias(r"^encoder\.layers\.", "blocks."),
    Alias(r"^(blocks\.\d+)\.layer_norm([12])\.", r"\1.norm\2."),
    Alias(r"^(blocks\.\d+)\.self_attn\.out_proj\.", r"\1.attn.proj."),
    Alias(r"^(blocks\.\d+)\.self_attn\.([qkv])_proj\.", r"\1.attn.\2."),
    Alias(r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    Alias(r"^embeddings\.distillation_token$", "dist_token"),
    Alias(r"^embeddings\.register_tokens$", "reg_token"),
    Alias(r"^embeddings\.position_embeddings$", "pos_embed"),
    Alias(r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    Alias(r"^encoder\.layer\.", "blocks."),
    Alias(r"^(blocks\.\d+)\.attention\.attention\.([qkv])(uery|ey|alue)\.", r"\1.attn.\2."),
    Alias(r"^(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."),
    Alias(r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    Alias(r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    Alias(r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    Alias(r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    Alias(r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    Alias(r"^layernorm\.", "norm."),
    Alias(r"^(cls_)?classifier\.", "head."),
    Alias(r"^distillation_classifier\.", "head_dist."),
)
TIMM = Format(
    tables.TIMM,
    # Batch norm counters, and a token that DINOv2 and MAE use only in training.
    ignored=r".*\.num_batches_tracked|mask_token",
    pre_logits=r"pre_logits\..*",
    aliases=(*_WRAPPED, *_DEIT_AND_DINO, *_CLIP, *_TRANSFORMERS),
    parts=(r"(blocks\.\d+\.attn)\.([qkv])\.(weight|bias)", r"\1.qkv.\3", ("q", "k", "v")),
)
AUGREG = Format(
    tables.AUGREG,
    # Optimizer states and counters of big_vision, scenic and Flax.
    ignored=r"(opt|opt_state|optimizer|model_state|chrono|extra|metadata)/.*|step|global_step|rng",
    pre_logits="pre_logits/.*",
    aliases=(
        Alias(r"^(params|opt/target|optimizer/target|target)/"),
        # big_vision and scenic number the modules of a block by their type, AugReg all together.
        Alias(r"(/encoderblock(?:_\d+)?)/MultiHeadDotProductAttention_0/", r"\1/MultiHeadDotProductAttention_1/"),
        Alias(r"(/encoderblock(?:_\d+)?)/LayerNorm_1/", r"\1/LayerNorm_2/"),
        Alias(r"(/encoderblock(?:_\d+)?)/MlpBlock_0/", r"\1/MlpBlock_3/"),
        Alias(r"^(Transformer/)?pos_embedding$", "Transformer/posembed_input/pos_embedding"),
        Alias(r"^output_projection/", "head/"),
    ),
    stacked=("Transformer/encoderblock/", "Transformer/encoderblock_{block}/"),
    resampling=("linear", False),
)
