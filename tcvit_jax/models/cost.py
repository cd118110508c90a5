"""Multiply-adds (MACs) of a Vision Transformer, for any number of tokens in each block.

The convention of the field: of the backbone, matrix products alone (linear layers, attention, patch embedding, head),
attention at the length that enters a block and MLP at the length that leaves it; norms, softmax, GELU and biases are
free. Reducers report their own products, which the papers leave out; here they are counted, on lines of their own.

What nobody reads is not computed: the patch tokens of the last block, where the head reads prefix tokens alone. Papers
count it all the same, and so does `Cost.total`; `Cost.skipped` is what the program leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tcvit_jax.reducers.base import Reducer, ReducerMacs
from tcvit_jax.reducers.parts import BlockContext


@dataclass(frozen=True)
class Shape:
    """What the cost of a model's blocks depends on."""

    patches: int
    prefix: int
    width: int
    heads: int
    mlp_hidden: int


@dataclass(frozen=True)
class BlockCost:
    """MACs of one block, stage by stage, and which patch tokens enter and leave it.

    Attributes:
        tokens_in, tokens_out: patch tokens.
        qkv: the projection to queries, keys and values.
        attention: scores, and their product with the values.
        projection: of the attended values.
        mlp: its two layers, for the tokens that are left.
        reducer_macs: of the reducer.
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
        """What the method costs here."""
        return self.reducer_macs.total

    @property
    def total(self) -> int:
        """All of the block's products."""
        return self.qkv + self.attention + self.projection + self.mlp + self.reducer


@dataclass(frozen=True)
class Cost:
    """MACs of one image, part by part; `skipped` of them, in the last block, are not computed."""

    embed: int
    prepare: ReducerMacs
    blocks: tuple[BlockCost, ...]
    head: int
    skipped: int

    @property
    def reducer(self) -> int:
        """What the method itself costs: preparation, signals, plans and their application."""
        return self.prepare.total + sum(block.reducer for block in self.blocks)

    @property
    def total(self) -> int:
        """Everything, the method's own products included."""
        return self.embed + self.prepare.total + sum(block.total for block in self.blocks) + self.head

    @property
    def computed_macs(self) -> int:
        """What the program computes for logits: everything but what nobody reads."""
        return self.total - self.skipped

    @property
    def tokens(self) -> tuple[int, ...]:
        """Patch tokens at the start and after each block."""
        return (self.blocks[0].tokens_in, *(block.tokens_out for block in self.blocks))


def blocks_cost(
    shape: Shape, removed: Sequence[int], reducer: Reducer | None
) -> tuple[ReducerMacs, tuple[BlockCost, ...]]:
    """Return the MACs of one image when `removed[l]` patch tokens leave block `l`: of the preparation, and per block.

    `reducer` is None where nothing is removed.
    """
    blocks: list[BlockCost] = []
    patches = shape.patches
    for index, count in enumerate(removed):
        leaving = patches - count + (reducer.extra_tokens if reducer and count else 0)
        context = BlockContext(patches, patches - count, shape.prefix, shape.heads, shape.width, index, len(removed))
        reducer_macs = reducer.macs(context) if reducer and count else ReducerMacs()
        blocks.append(_block(shape, patches, leaving, reducer_macs))
        patches = leaving
    prepare = reducer.prepare_macs(shape.patches, shape.width) if reducer else ReducerMacs()
    return prepare, tuple(blocks)


def skipped_macs(shape: Shape, removed: Sequence[int], reducer: Reducer | None) -> int:
    """Return the MACs that are not computed where only prefix tokens are read after the last block.

    The last block's queries, attention, projection and MLP of its patch tokens, and its plan; the preparation too where
    no other block has a plan.
    """
    prepare, blocks = blocks_cost(shape, removed, reducer)
    width, last = shape.width, blocks[-1]
    tokens = last.tokens_in + shape.prefix
    projection, row = last.tokens_in * width**2, last.tokens_in * tokens * width
    # Sparsification compares the whole map, and needs every query.
    scores = 0 if reducer is not None and reducer.attention_keep < 1 else projection + row
    mlp = 2 * last.tokens_out * width * shape.mlp_hidden
    return scores + row + projection + mlp + last.reducer + (0 if any(removed[:-1]) else prepare.total)


def _block(shape: Shape, entering: int, leaving: int, reducer_macs: ReducerMacs) -> BlockCost:
    width, tokens = shape.width, entering + shape.prefix
    return BlockCost(
        tokens_in=entering,
        tokens_out=leaving,
        qkv=3 * tokens * width**2,
        attention=2 * tokens**2 * width,
        projection=tokens * width**2,
        mlp=2 * (leaving + shape.prefix) * width * shape.mlp_hidden,
        reducer_macs=reducer_macs,
    )
