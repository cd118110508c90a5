"""Multiply-adds against published figures and against a count of the program itself."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.models import parameter_shapes
from tcvit_jax.reducers.gtp import edges
from tcvit_jax.reducers.parts import BlockContext
from tests.models.builders import small
from tests.models.programs import products
from tests.switches import METHODS, SWITCHES

NAMES = {"ti": "deit_tiny_patch16_224", "s": "deit_small_patch16_224", "b": "deit_base_patch16_224"}


def backbone(size, removed, reducer):
    """1e9 multiply-adds without the method's own, as papers count."""
    cost = tc.create_model(NAMES[size], reducer, removed).cost()
    return (cost.total - cost.reducer) / 1e9


def test_a_graph_that_no_block_reads_is_not_computed():
    model = small(tc.GTP(), [0, 5], depth=2)
    images = jax.ShapeDtypeStruct((1, *model.img_size, 3), np.float32)
    plain = small(depth=2)
    compiled, dense = (
        jax.jit(m.apply).lower({"params": parameter_shapes(m)}, images).compile() for m in (model, plain)
    )
    assert model.cost().computed_macs == plain.cost().computed_macs
    assert compiled.cost_analysis()["flops"] == dense.cost_analysis()["flops"]


def test_what_nobody_reads_of_deit_s():
    """Queries, attention, projection and MLP of the last block's patch tokens."""
    dense = tc.create_model(NAMES["s"]).cost()
    assert round(dense.total / 1e9, 3) == 4.599
    assert round(dense.computed_macs / 1e9, 3) == 4.280
    assert tc.create_model(NAMES["s"], global_pool="avg").cost().skipped == 0


# Published counts of GTP-ViT without its graph (K x P propagation left out) and of every-block schedules.
@pytest.mark.parametrize(
    ("size", "removed", "gmacs"),
    [
        ("ti", 0, 1.254), ("s", 0, 4.599), ("b", 0, 17.564), ("s", 4, 4.00), ("s", 8, 3.42), ("s", 13, 2.70),
        ("s", 16, 2.28), ("ti", 8, 0.924), ("ti", 16, 0.620), ("b", 8, 13.10), ("b", 16, 8.74),
    ],
)  # fmt: skip
def test_backbone_equals_published_counts(size, removed, gmacs):
    digits = len(str(gmacs).split(".")[1])
    assert round(backbone(size, removed, tc.TCViT()), max(digits, 2)) == gmacs


# Matrix products alone, the graph not counted, of the official code (spec: integer-equal to a profiler's count).
@pytest.mark.parametrize(
    ("size", "removed", "gmacs"),
    [
        ("ti", 4, 1.087), ("ti", 8, 0.927), ("ti", 11, 0.810), ("ti", 14, 0.697), ("ti", 16, 0.623), ("s", 1, 4.449),
        ("s", 4, 4.005), ("s", 8, 3.422), ("s", 11, 2.992), ("s", 14, 2.569), ("s", 16, 2.291), ("b", 4, 15.328),
        ("b", 8, 13.115), ("b", 11, 11.470), ("b", 14, 9.838), ("b", 16, 8.757),
    ],
)  # fmt: skip
def test_gtp_s_propagation_is_what_a_profiler_counts(size, removed, gmacs):
    model = tc.create_model(NAMES[size], tc.GTP(), removed)
    cost = model.cost()
    assert cost.prepare.match == cost.prepare.total == 196 * 196 * model.embed_dim
    # Ours adds the column sums and the graph's two factors on top of them.
    propagation = sum(block.tokens_out * removed * (model.embed_dim + 1) for block in cost.blocks)
    # Sizes of the last block are dead code to the profiler.
    propagation -= cost.blocks[-1].tokens_out * removed
    assert round((cost.total - cost.reducer + propagation) / 1e9, 3) == gmacs


# Every switch where all blocks plan, and each method where the last one does not.
PLANNED = [pytest.param({"global_pool": "avg"}, *switch.values, id=switch.id) for switch in SWITCHES]
TRIMMED = [(sizes, *m.values) for sizes in ({}, {"distilled": True, "reg_tokens": 2}) for m in METHODS]


@pytest.mark.parametrize(("sizes", "reducer"), [({}, None), ({"global_pool": "avg"}, None), *PLANNED, *TRIMMED])
def test_count_equals_the_products_in_the_program(reducer, sizes):
    """Every `dot_general` and convolution of the traced program, beside the ledger without element-wise extras."""
    model = small(reducer, 7, depth=2, **sizes)
    images = jax.ShapeDtypeStruct((1, *model.img_size, 3), np.float32)
    program = jax.make_jaxpr(model.apply)({"params": parameter_shapes(model)}, images)
    cost = model.cost()
    # Nothing of the last block's plan is computed where the head reads prefix tokens alone.
    planned = cost.blocks[:-1] if model.reads_prefix_only else cost.blocks
    extras = sum(_not_products(model, *numbered) for numbered in enumerate(planned)) if reducer is not None else 0
    # A mean that counts sizes is written as a product, and a mean to the ledger.
    mean = model.global_pool == "avg" and reducer is not None and reducer.uses_size_weights
    extras -= cost.tokens[-1] * model.embed_dim if mean else 0
    assert sum(macs for _, macs in products(program.jaxpr)) == cost.computed_macs - extras
    assert cost.skipped == (cost.total - cost.computed_macs) == 0 if not model.reads_prefix_only else cost.skipped > 0


def _not_products(model, index, block):
    """What the ledger counts of a reducer that is no `dot_general`: means over heads, factors of edges and weights."""
    if not model.removed[index]:
        return 0
    parts, keep = model.reducer.parts, block.tokens_in - model.removed[index]
    context = BlockContext(block.tokens_in, keep, model.prefix, model.num_heads, model.embed_dim, index, model.depth)
    sums = model.num_heads * context.tokens**2 * ("map" in model.reducer.signals)
    if "class_row" in model.reducer.signals and model.reducer.attention_keep == 1:
        # Computed anew, and read off the map to the ledger.
        sums -= (1 + model.distilled) * context.tokens * model.embed_dim
    degrees = 2 * keep * context.removed if parts.match and parts.match.similarity is edges else 0
    # Where nothing is removed there is no product to fuse with: what is left are factors of every kept token, of which
    # a token more behind them has none.
    factors = (
        0 if parts.fusion.extra_tokens else parts.fusion.macs(replace(context, keep=context.patches)) // context.patches
    )
    return sums + degrees + keep * factors
