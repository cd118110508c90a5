"""Multiply-adds (MACs) of a Vision Transformer for any number of tokens in each block.

Backbone MACs follow the convention of the papers. Only matrix products count: linear layers, attention, patch
embedding and head. Attention counts the tokens that enter a block, the MLP those that leave it. Norms, softmax, GELU,
gates, rotations and biases are free. The products of the reducer itself, which the papers leave out, are counted
separately.

If the head reads prefix tokens only, the patch tokens of the last block are never computed. Papers count them anyway,
and so does `Cost.total`; `Cost.skipped` is the part that the program skips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tcvit_jax.reducers.base import Reducer, ReducerMacs
from tcvit_jax.reducers.parts import BlockContext


@dataclass(frozen=True)
class Shape:
    """Dimensions that determine the cost of the blocks.

    Attributes:
        patches: Number of patch tokens before the first block.
        prefix: Number of prefix tokens.
        width: Embedding dimension.
        heads: Number of attention heads.
        mlp_hidden: Hidden dimension of the MLP.
        mlp_matrices: Number of linear layers of the MLP: 2, or 3 for a gated one.
    """

    patches: int
    prefix: int
    width: int
    heads: int
    mlp_hidden: int
    mlp_matrices: int = 2

    @property
    def mlp(self) -> int:
        """MACs of the MLP for one token."""
        return self.mlp_matrices * self.width * self.mlp_hidden


@dataclass(frozen=True)
class BlockCost:
    """MACs of one block by stage, and its numbers of patch tokens.

    Attributes:
        tokens_in: Patch tokens that enter the block.
        tokens_out: Patch tokens that leave the block.
        qkv: MACs of the projection to queries, keys and values.
        attention: MACs of the attention scores and of their product with the values.
        projection: MACs of the output projection of the attention.
        mlp: MACs of all MLP layers, for the remaining tokens.
        reducer_macs: MACs of the reducer.
    """

    tokens_in: int
    tokens_out: int
    qkv: int
    attention: int
    projection: int
    mlp: int
    reducer_macs: ReducerMacs

    @property
    def reducer(self) -> int:
        """MACs of the reducer in this block."""
        return self.reducer_macs.total

    @property
    def total(self) -> int:
        """MACs of this block, including the reducer."""
        return self.qkv + self.attention + self.projection + self.mlp + self.reducer


@dataclass(frozen=True)
class Cost:
    """MACs of one image by part of the model.

    Attributes:
        embed: MACs of the embedding.
        prepare: MACs of the reducer's preparation, once per image.
        blocks: Cost of each block.
        head: MACs of the head.
        skipped: MACs in the last block that the program does not compute.
    """

    embed: int
    prepare: ReducerMacs
    blocks: tuple[BlockCost, ...]
    head: int
    skipped: int

    @property
    def reducer(self) -> int:
        """MACs of the reducer: preparation, signals, plans and their application."""
        return self.prepare.total + sum(block.reducer for block in self.blocks)

    @property
    def total(self) -> int:
        """All MACs, including the reducer and the skipped ones."""
        return self.embed + self.prepare.total + sum(block.total for block in self.blocks) + self.head

    @property
    def computed_macs(self) -> int:
        """MACs that the program computes for the logits: `total` without `skipped`."""
        return self.total - self.skipped

    @property
    def tokens(self) -> tuple[int, ...]:
        """Numbers of patch tokens before the first block and after each block."""
        return (self.blocks[0].tokens_in, *(block.tokens_out for block in self.blocks))


def blocks_cost(
    shape: Shape, removed: Sequence[int], reducer: Reducer | None
) -> tuple[ReducerMacs, tuple[BlockCost, ...]]:
    """Return the MACs of one image for the preparation and for each block.

    Args:
        shape: Dimensions of the model.
        removed: Number of patch tokens to remove in each block.
        reducer: Reducer, or None if no block removes tokens.

    Returns:
        The MACs of the preparation and the cost of each block.
    """
    blocks: list[BlockCost] = []
    patches = shape.patches
    for index, count in enumerate(removed):
        tokens_out = patches - count + (reducer.extra_tokens if reducer and count else 0)
        context = BlockContext(
            patches, patches - count, shape.prefix, shape.heads, shape.width, index, len(removed), shape.mlp
        )
        reducer_macs = reducer.macs(context) if reducer and count else ReducerMacs()
        blocks.append(_block_cost(shape, patches, tokens_out, reducer_macs))
        patches = tokens_out
    prepare = reducer.prepare_macs(shape.patches, shape.width) if reducer else ReducerMacs()
    return prepare, tuple(blocks)


def skipped_macs(shape: Shape, removed: Sequence[int], reducer: Reducer | None) -> int:
    """Return the MACs that are skipped if the head reads prefix tokens only.

    These are the queries, attention, projection and MLP of the patch tokens in the last block, and its plan. If no
    other block has a plan, the preparation is skipped too.

    Args:
        shape: Dimensions of the model.
        removed: Number of patch tokens to remove in each block.
        reducer: Reducer, or None if no block removes tokens.
    """
    prepare, blocks = blocks_cost(shape, removed, reducer)
    width, last = shape.width, blocks[-1]
    tokens = last.tokens_in + shape.prefix
    projection, row = last.tokens_in * width**2, last.tokens_in * tokens * width
    # Sparsification compares the entries of the full map, so it needs every query.
    scores = 0 if reducer is not None and reducer.attention_keep < 1 else projection + row
    mlp = last.tokens_out * shape.mlp
    return scores + row + projection + mlp + last.reducer + (0 if any(removed[:-1]) else prepare.total)


def _block_cost(shape: Shape, tokens_in: int, tokens_out: int, reducer_macs: ReducerMacs) -> BlockCost:
    width, tokens = shape.width, tokens_in + shape.prefix
    return BlockCost(
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        qkv=3 * tokens * width**2,
        attention=2 * tokens**2 * width,
        projection=tokens * width**2,
        mlp=(tokens_out + shape.prefix) * shape.mlp,
        reducer_macs=reducer_macs,
    )
