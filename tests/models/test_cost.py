"""Multiply-adds compared with published values and with the matrix products of the program."""

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
    """Multiply-adds without the reducer, as papers count them, in 1e9."""
    cost = tc.create_model(NAMES[size], reducer, removed).cost()
    return (cost.total - cost.reducer) / 1e9


def test_unused_graph_is_not_computed():
    model = small(tc.GTP(), [0, 5], depth=2)
    images = jax.ShapeDtypeStruct((1, *model.img_size, 3), np.float32)
    plain = small(depth=2)
    compiled, dense = (
        jax.jit(m.apply).lower({"params": parameter_shapes(m)}, images).compile() for m in (model, plain)
    )
    assert model.cost().computed_macs == plain.cost().computed_macs
    assert compiled.cost_analysis()["flops"] == dense.cost_analysis()["flops"]


def test_skipped_macs_of_deit_s():
    """Queries, attention, projection and MLP of the patch tokens in the last block are skipped."""
    dense = tc.create_model(NAMES["s"]).cost()
    assert round(dense.total / 1e9, 3) == 4.599
    assert round(dense.computed_macs / 1e9, 3) == 4.280
    assert tc.create_model(NAMES["s"], global_pool="avg").cost().skipped == 0


# Published values of GTP-ViT with a reduction in every block, without the graph and the K x P propagation.
@pytest.mark.parametrize(
    ("size", "removed", "gmacs"),
    [
        ("ti", 0, 1.254), ("s", 0, 4.599), ("b", 0, 17.564), ("s", 4, 4.00), ("s", 8, 3.42), ("s", 13, 2.70),
        ("s", 16, 2.28), ("ti", 8, 0.924), ("ti", 16, 0.620), ("b", 8, 13.10), ("b", 16, 8.74),
    ],
)  # fmt: skip
def test_backbone_macs_equal_published_values(size, removed, gmacs):
    digits = len(str(gmacs).split(".")[1])
    assert round(backbone(size, removed, tc.TCViT()), max(digits, 2)) == gmacs


# Profiler count of the matrix products of the official code, without the graph.
@pytest.mark.parametrize(
    ("size", "removed", "gmacs"),
    [
        ("ti", 4, 1.087), ("ti", 8, 0.927), ("ti", 11, 0.810), ("ti", 14, 0.697), ("ti", 16, 0.623), ("s", 1, 4.449),
        ("s", 4, 4.005), ("s", 8, 3.422), ("s", 11, 2.992), ("s", 14, 2.569), ("s", 16, 2.291), ("b", 4, 15.328),
        ("b", 8, 13.115), ("b", 11, 11.470), ("b", 14, 9.838), ("b", 16, 8.757),
    ],
)  # fmt: skip
def test_gtp_propagation_macs_equal_profiler_count(size, removed, gmacs):
    model = tc.create_model(NAMES[size], tc.GTP(), removed)
    cost = model.cost()
    assert cost.prepare.match == cost.prepare.total == 196 * 196 * model.embed_dim
    # `cost.reducer` also includes the column sums and the two factors of the graph.
    propagation = sum(block.tokens_out * removed * (model.embed_dim + 1) for block in cost.blocks)
    # The profiler does not count the sizes of the last block, which are dead code.
    propagation -= cost.blocks[-1].tokens_out * removed
    assert round((cost.total - cost.reducer + propagation) / 1e9, 3) == gmacs


# Every switch if all blocks have a plan, and every method if the last block has none.
ALL_PLANS = [pytest.param({"global_pool": "avg"}, *switch.values, id=switch.id) for switch in SWITCHES]
NO_LAST_PLAN = [(sizes, *m.values) for sizes in ({}, {"distilled": True, "reg_tokens": 2}) for m in METHODS]
# Gated MLPs, rotary positions and other heads.
FAMILIES = [
    {"mlp_layer": "swiglu", "scale_mlp": True, "rope_type": "cat", "scale_attn_inner": True},
    {
        "mlp_layer": "swiglu_packed",
        "rope_type": "dinov3",
        "reg_tokens": 2,
        "pos_embed": "none",
        "global_pool": "token_avg",
    },
    {"global_pool": "map", "class_token": False},
    {"img_size": 26, "allow_remainder": True},
]
OTHER_FAMILIES = [(sizes, reducer) for sizes in FAMILIES for reducer in (None, tc.ToMe())]


@pytest.mark.parametrize(
    ("sizes", "reducer"),
    [({}, None), ({"global_pool": "avg"}, None), *ALL_PLANS, *NO_LAST_PLAN, *OTHER_FAMILIES],
)
def test_cost_equals_matrix_products_of_program(reducer, sizes):
    """Compare with every `dot_general` and convolution of the traced program, without element-wise operations."""
    model = small(reducer, 7, depth=2, **sizes)
    images = jax.ShapeDtypeStruct((1, *model.img_size, 3), np.float32)
    program = jax.make_jaxpr(model.apply)({"params": parameter_shapes(model)}, images)
    cost = model.cost()
    # If the head reads prefix tokens only, the last block has no plan.
    blocks = cost.blocks[:-1] if model.reads_prefix_only else cost.blocks
    elementwise = sum(_elementwise_macs(model, *item) for item in enumerate(blocks)) if reducer is not None else 0
    # A size-weighted mean is implemented as a product, but `cost` does not count means.
    has_weighted_mean = "avg" in model.global_pool and reducer is not None and reducer.uses_size_weights
    elementwise -= cost.tokens[-1] * model.embed_dim if has_weighted_mean else 0
    assert sum(macs for _, macs in products(program.jaxpr)) == cost.computed_macs - elementwise
    assert cost.skipped == (cost.total - cost.computed_macs) == 0 if not model.reads_prefix_only else cost.skipped > 0


def _elementwise_macs(model, index, block):
    """MACs of a reducer in `cost` that are not a `dot_general`: means over heads, factors of edges and weights."""
    if not model.removed[index]:
        return 0
    parts, keep = model.reducer.parts, block.tokens_in - model.removed[index]
    context = BlockContext(block.tokens_in, keep, model.prefix, model.num_heads, model.embed_dim, index, model.depth)
    sums = model.num_heads * context.tokens**2 * ("map" in model.reducer.signals)
    if "class_row" in model.reducer.signals and model.reducer.attention_keep == 1:
        # The program recomputes this row, but `cost` assumes that it is read from the map.
        sums -= (1 + model.distilled) * context.tokens * model.embed_dim
    degrees = 2 * keep * context.removed if parts.match and parts.match.similarity is edges else 0
    # If nothing is removed, only the factors of the kept tokens remain in `fusion.macs`. Extra tokens have no factor.
    factors = (
        0 if parts.fusion.extra_tokens else parts.fusion.macs(replace(context, keep=context.patches)) // context.patches
    )
    return sums + degrees + keep * factors
