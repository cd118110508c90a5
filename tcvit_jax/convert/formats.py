"""Weight file formats: naming conventions that do not depend on the architecture.

Names and layouts of the individual tensors are in the parameter table of the architecture (`models/tables.py`). Other
programs write the same tensors under other names; the aliases of a format map them to the names of the table. Those of
transformers are in `names.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tcvit_jax.convert import names as file_names
from tcvit_jax.convert.names import IGNORED, PARTS, PREFIXES
from tcvit_jax.models import tables
from tcvit_jax.models.parameters import BLOCK

# A prefix has at most so many parts, such as the two of `"module.backbone."`.
MAX_PARTS = 6


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
        rows: `(start, stop, count)` for the rows from `start / count` to `stop / count` of one tensor, or None for all.
    """

    names: tuple[str, ...]
    block: int | None = None
    change: Callable[[np.ndarray], np.ndarray] | None = None
    rows: tuple[int, int, int] | None = None

    def shape(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Return the shape of the tensor for the shapes of the tensors in the file, without allocating memory."""
        shape = tuple(shapes[0]) if self.block is None else tuple(shapes[0][1:])
        if self.rows is not None:
            shape = (len(range(shape[0])[self._slice(shape[0])]), *shape[1:]) if shape else shape
        if self.change is not None:
            shape = self.change(np.broadcast_to(np.float32(0), shape)).shape
        return shape if len(shapes) == 1 else (sum(each[0] for each in shapes), *shape[1:])

    def assemble(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Return the tensor of the parameter table."""
        if len(tensors) > 1:
            return np.concatenate(tensors)
        tensor = tensors[0] if self.block is None else tensors[0][self.block]
        if self.rows is not None and tensor.shape:
            tensor = tensor[self._slice(tensor.shape[0])]
        return tensor if self.change is None else self.change(tensor)

    def _slice(self, length: int) -> slice:
        start, stop, count = self.rows or (0, 1, 1)
        return slice(length * start // count, length * stop // count)


@dataclass(frozen=True)
class Format:
    """A naming convention for the tensors of a weight file.

    Attributes:
        name: Key of the format in the parameter tables, and its name in error messages.
        ignored: Regular expression of tensors that are not weights.
        pre_logits: Regular expression of the layer between the features and the classifier of some models, which the
            models of this project do not have.
        aliases: Names that other programs write.
        has_parts: Whether files may have the names of `names.py`.
        stacked: Prefix of tensors that stack all blocks along their first axis, and its replacement with the block
            number; None if there are none.
        resampling: Method and antialiasing for resampled position embeddings, as timm uses for this format.
    """

    name: str
    ignored: str
    pre_logits: str
    aliases: tuple[Alias, ...]
    has_parts: bool = False
    stacked: tuple[str, str] | None = None
    resampling: tuple[str, bool] = ("cubic", True)

    @cached_property
    def _compiled(self) -> tuple[tuple[re.Pattern[str], Alias], ...]:
        return tuple((re.compile(alias.pattern), alias) for alias in self.aliases)

    def sources(self, names: Collection[str], depth: int, prefix: str = "") -> Iterator[tuple[str, Source]]:
        """Yield the canonical name of each tensor that is not ignored, and its source.

        Args:
            names: Names in the file.
            depth: Number of blocks of the model.
            prefix: Prefix that is removed from the names that have it.

        Yields:
            `(name in the parameter table, source in the file)`.
        """
        parts: dict[str, dict[str, str]] = {}
        # Files of DINOv3 have a bias of the keys, and a mask of zeros for it.
        masked = {name.removeprefix(prefix).removesuffix("_mask") for name in names if name.endswith(".bias_mask")}
        for name in names:
            canonical_name, change = self.canonical_name(name.removeprefix(prefix))
            part = file_names.part_of(canonical_name) if self.has_parts else None
            if re.fullmatch(self.ignored, canonical_name):
                continue
            if part:
                target, key = part
                if key in parts.setdefault(target, {}):  # yield a duplicate of the target
                    yield target, Source((name,))
                parts[target][key] = name
            elif self.has_parts and (pieces := file_names.joined(canonical_name)):
                yield from ((target, Source((name,), rows=rows)) for target, rows in pieces)
            elif canonical_name in masked:
                for key, rows in (("q", (0, 1, 3)), ("v", (2, 3, 3))):
                    yield canonical_name.replace("qkv.bias", f"{key}_bias"), Source((name,), rows=rows)
            elif self.stacked and canonical_name.startswith(self.stacked[0]):
                for block in range(depth):
                    replacement = self.stacked[1].format(block=block)
                    yield canonical_name.replace(self.stacked[0], replacement, 1), Source((name,), block, change)
            else:
                yield canonical_name, Source((name,), change=change)
        for target, part_names in parts.items():
            yield from _join(target, part_names)

    def canonical_name(self, name: str) -> tuple[str, Callable[[np.ndarray], np.ndarray] | None]:
        """Return the name of a tensor in the parameter table or of a part, and the conversion to its layout, if any."""
        located = file_names.row_of(name) if self.has_parts else None
        if located:
            row, block = located
            return row.target.replace(BLOCK, block), _EXPAND[row.axes]
        change = None
        for pattern, alias in self._compiled:
            name, count = pattern.subn(alias.replacement, name)
            change = alias.change if count and alias.change else change
        return name, change

    def is_one_of(self, name: str, tensors: Collection[str]) -> bool:
        """Return whether a tensor of a file is, or is a part of, one of `tensors` of the parameter table."""
        return any(canonical_name in tensors for canonical_name, _ in self.sources([name], 1))

    def zeros(self, names: Collection[str], prefix: str = "") -> frozenset[str]:
        """Return the tensors of the table that files with these names leave out because they are zero."""
        names = [name.removeprefix(prefix) for name in names]
        rows = [file_names.row_of(name) for name in names] if self.has_parts else []
        return frozenset(
            zero
            for pattern, alias in self._compiled
            if alias.zeros and any(pattern.search(name) for name in names)
            for zero in alias.zeros
        ) | {zero for located in rows if located for zero in located[0].zeros}


# Adds the leading axes that a tensor does not have in a file.
_EXPAND: dict[int, Callable[[np.ndarray], np.ndarray] | None] = {
    0: None, 1: lambda tensor: tensor[None], 2: lambda tensor: tensor[None, None],
}  # fmt: skip


def _join(target: str, names: dict[str, str]) -> Iterator[tuple[str, Source]]:
    """Yield the tensors of the table that the parts of a tensor make.

    Args:
        target: Name of the tensor of the table.
        names: Names in the file by part.
    """
    if target.endswith(".attn.qkv.bias") and set(names) == {"q", "v"}:
        for part, name in names.items():
            yield target.replace("qkv.bias", f"{part}_bias"), Source((name,))
        return
    order = next(parts for layer, parts in PARTS.items() if f".{layer}." in target)
    yield target, Source(tuple(names[part] for part in order if part in names))


def prefixes_of(names: Collection[str]) -> list[str]:
    """Return all prefixes of names that consist of parts of `names.PREFIXES`, such as `"module.backbone."`."""
    prefixes: dict[str, None] = {}
    for name in names:
        for stripped, _ in zip(file_names.strip_prefixes(name), range(MAX_PARTS + 1), strict=False):
            if len(stripped) < len(name):
                prefixes[name[: len(name) - len(stripped)]] = None
    return sorted(prefixes)


def fitting_prefixes(names: Collection[str], expected: Collection[str], file_format: Format, depth: int) -> list[str]:
    """Return the prefixes whose removal, from the names that have them, gives all expected tensors.

    Args:
        names: Names in the file.
        expected: Canonical names of the tensors that the model requires, without classifiers.
        file_format: Format of the file.
        depth: Number of blocks of the model.

    Returns:
        An empty prefix alone if it fits, and else all prefixes that fit.
    """
    expected = frozenset(expected)

    def fits(prefix: str) -> bool:
        return expected.issubset(canonical_name for canonical_name, _ in file_format.sources(names, depth, prefix))

    return [""] if fits("") else [prefix for prefix in prefixes_of(names) if fits(prefix)]


def wrapper_of(names: Collection[str]) -> str:
    """Return the prefix of parts of `names.PREFIXES` that all names share, or an empty string."""
    prefix = ""
    while names:
        part = next((each for each in PREFIXES if all(name.startswith(prefix + each) for name in names)), None)
        if part is None:
            break
        prefix += part
    return prefix


def format_of(names: Collection[str]) -> Format:
    """Return the format that the majority of the names belongs to."""
    return AUGREG if 2 * sum("/" in name for name in names) > len(names) else TIMM


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
TIMM = Format(
    tables.TIMM,
    # Batch norm counters, and tensors that only pretraining or other parts of a larger model use.
    ignored=rf".*\.num_batches_tracked|{IGNORED}",
    pre_logits=r"pre_logits\..*",
    aliases=(*_DEIT_AND_DINO, *_CLIP),
    has_parts=True,
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
