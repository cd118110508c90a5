"""Which tensor of whose file is which of our variables: one table of rules for every family of names.

A dialect is a list of rules; the rule of a variable is the one whose pattern is the whole of its path, and there is
exactly one. A rule names the tensors it is made of and the layout they have there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How a variable lies in a file.

    Attributes:
        shapes: from our shape and the number of heads to those of the tensors in the file, one for each.
        load: from those tensors to ours, given our shape.
        dump: the inverse, where the dialect is written: from ours to the one tensor.
    """

    shapes: Callable[[Shape, int], list[Shape]]
    load: Callable[[Sequence[np.ndarray], Shape], np.ndarray]
    dump: Callable[[np.ndarray], np.ndarray] | None = None


SAME = Layout(lambda shape, heads: [shape], lambda tensors, shape: tensors[0], lambda ours: ours)
# torch keeps kernels `[out, in]` and `[out, in, h, w]`; ours are `[in, out]` and `[h, w, in, out]`.
LINEAR = Layout(lambda shape, heads: [shape[::-1]], lambda tensors, shape: tensors[0].T, lambda ours: ours.T)
CONV = Layout(
    lambda shape, heads: [(shape[3], shape[2], shape[0], shape[1])],
    lambda tensors, shape: tensors[0].transpose(2, 3, 1, 0),
    lambda ours: ours.transpose(3, 2, 0, 1),
)
# The AugReg files keep queries, keys and values apart, and heads on an axis of their own.
QKV_KERNEL = Layout(
    lambda shape, heads: [(shape[0], heads, shape[0] // heads)] * 3,
    lambda tensors, shape: np.concatenate([tensor.reshape(shape[0], -1) for tensor in tensors], axis=1),
)
QKV_BIAS = Layout(
    lambda shape, heads: [(heads, shape[0] // 3 // heads)] * 3,
    lambda tensors, shape: np.concatenate([tensor.reshape(-1) for tensor in tensors]),
)
HEADS_OUT = Layout(
    lambda shape, heads: [(heads, shape[0] // heads, shape[1])], lambda tensors, shape: tensors[0].reshape(shape)
)


@dataclass(frozen=True)
class Rule:
    r"""The variables whose path is all of `ours`, and the tensors `theirs`, which may quote its groups (`\1`).

    Attributes:
        kind: `"head"` where a classifier of other classes can take its place, `"positions"` where it is resampled for
            another grid, `""` elsewhere.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = SAME
    kind: str = ""


@dataclass(frozen=True)
class Dialect:
    """A family of names.

    Attributes:
        name: what messages call it.
        rules: of every variable.
        ignored: patterns of names that hold no weight.
        aliases: patterns of names under which others keep what the rules know, and what they are there.
        head: pattern of the names of classifiers.
        resampling: method and antialiasing for positions on another grid, timm's for such files.
    """

    name: str
    rules: tuple[Rule, ...]
    head: str
    ignored: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    resampling: tuple[str, bool] = ("cubic", True)

    def rule(self, path: str) -> tuple[Rule, list[str]] | None:
        """The rule of one of our variables, `params.blocks_0.norm1.scale`, and the names of its tensors.

        None where these files have no such part.
        """
        for rule in self.rules:
            match = re.fullmatch(rule.ours, path)
            if match:
                return rule, [match.expand(name) for name in rule.theirs]
        return None

    def canonical(self, names: Collection[str]) -> Iterator[tuple[str, str]]:
        """Every name that is not ignored, as `(name as the rules have it, name in the file)`."""
        for name in names:
            known = name
            for pattern, replacement in self.aliases:
                known = re.sub(pattern, replacement, known)
            if not any(re.fullmatch(pattern, known) for pattern in self.ignored):
                yield known, name


# timm's, which are also those of DeiT, DINO, MAE and TokenLabeling.
TIMM = Dialect(
    "timm",
    (
        Rule(r"params\.patch_embed\.kernel", ("patch_embed.proj.weight",), CONV),
        Rule(r"params\.patch_embed\.bias", ("patch_embed.proj.bias",)),
        Rule(r"params\.patch_embed\.(conv\d|proj)\.kernel", (r"patch_embed.\1.weight",), CONV),
        Rule(r"params\.patch_embed\.(bn\d)\.scale", (r"patch_embed.\1.weight",)),
        Rule(r"params\.patch_embed\.(bn\d|proj)\.bias", (r"patch_embed.\1.bias",)),
        Rule(r"batch_stats\.patch_embed\.(bn\d)\.(mean|var)", (r"patch_embed.\1.running_\2",)),
        Rule(r"params\.(cls_token|dist_token|reg_token)", (r"\1",)),
        Rule(r"params\.pos_embed", ("pos_embed",), kind="positions"),
        Rule(r"params\.blocks_(\d+)\.(norm\d|attn\.[qk]_norm)\.scale", (r"blocks.\1.\2.weight",)),
        Rule(r"params\.blocks_(\d+)\.(attn\.qkv|attn\.proj|mlp\.fc\d)\.kernel", (r"blocks.\1.\2.weight",), LINEAR),
        Rule(r"params\.blocks_(\d+)\.([\w.]+\.bias|ls\d\.gamma)", (r"blocks.\1.\2",)),
        Rule(r"params\.(norm|norm_pre|fc_norm)\.scale", (r"\1.weight",)),
        Rule(r"params\.(norm|norm_pre|fc_norm)\.bias", (r"\1.bias",)),
        Rule(r"params\.(head|head_dist|aux_head)\.kernel", (r"\1.weight",), LINEAR, "head"),
        Rule(r"params\.(head|head_dist|aux_head)\.bias", (r"\1.bias",), kind="head"),
    ),
    head=r"(head|head_dist|aux_head)\.(weight|bias)",
    # Counters of batch norm, and what DINOv2 needed in training alone.
    ignored=(r".*\.num_batches_tracked", "mask_token"),
    # Wrappers for parallel training and compilation; the names of DeiT-III's authors.
    aliases=((r"^(module\.|_orig_mod\.)+", ""), (r"\.gamma_([12])$", r".ls\1.gamma")),
)

_BLOCK = r"Transformer/encoderblock_\1"
_HEADS = f"{_BLOCK}/MultiHeadDotProductAttention_1"
# The .npz files of "How to train your ViT?", written by google-research/vision_transformer.
AUGREG = Dialect(
    "AugReg",
    (
        Rule(r"params\.patch_embed\.(kernel|bias)", (r"embedding/\1",)),
        Rule(r"params\.cls_token", ("cls",)),
        Rule(r"params\.pos_embed", ("Transformer/posembed_input/pos_embedding",), kind="positions"),
        Rule(r"params\.blocks_(\d+)\.norm1\.(scale|bias)", (rf"{_BLOCK}/LayerNorm_0/\2",)),
        Rule(r"params\.blocks_(\d+)\.norm2\.(scale|bias)", (rf"{_BLOCK}/LayerNorm_2/\2",)),
        Rule(
            r"params\.blocks_(\d+)\.attn\.qkv\.kernel",
            tuple(f"{_HEADS}/{part}/kernel" for part in ("query", "key", "value")),
            QKV_KERNEL,
        ),
        Rule(
            r"params\.blocks_(\d+)\.attn\.qkv\.bias",
            tuple(f"{_HEADS}/{part}/bias" for part in ("query", "key", "value")),
            QKV_BIAS,
        ),
        Rule(r"params\.blocks_(\d+)\.attn\.proj\.kernel", (f"{_HEADS}/out/kernel",), HEADS_OUT),
        Rule(r"params\.blocks_(\d+)\.attn\.proj\.bias", (f"{_HEADS}/out/bias",)),
        Rule(r"params\.blocks_(\d+)\.mlp\.fc1\.(kernel|bias)", (rf"{_BLOCK}/MlpBlock_3/Dense_0/\2",)),
        Rule(r"params\.blocks_(\d+)\.mlp\.fc2\.(kernel|bias)", (rf"{_BLOCK}/MlpBlock_3/Dense_1/\2",)),
        Rule(r"params\.norm\.(scale|bias)", (r"Transformer/encoder_norm/\1",)),
        Rule(r"params\.head\.(kernel|bias)", (r"head/\1",), kind="head"),
    ),
    head=r"head/(kernel|bias)",
    resampling=("linear", False),
)


def dialect_of(names: Collection[str]) -> Dialect:
    """Whose names these are, most of them."""
    return AUGREG if 2 * sum("/" in name for name in names) > len(names) else TIMM
