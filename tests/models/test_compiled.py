"""Compiled forward passes on eight devices: collectives, host callbacks, matrix products and number of traces."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tcvit_jax.reducers import REDUCERS
from tests.models.builders import images_of, small, variables_of
from tests.models.programs import products
from tests.switches import COMPILED_SWITCHES, REPRESENTATIVE_METHODS

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
METHODS = [pytest.param(None, id="dense"), *REPRESENTATIVE_METHODS]


def shapes_of(model, batch):
    images = jax.ShapeDtypeStruct((batch, *model.img_size, model.in_chans), np.float32)
    return {"params": models.parameter_shapes(model)}, images


@pytest.mark.parametrize("reducer", [pytest.param(None, id="dense"), *COMPILED_SWITCHES])
def test_forward_has_no_collectives_host_calls_or_map_products_and_is_traced_once(reducer):
    model = small(reducer, 4, depth=2)
    mesh = sharding.data_mesh()
    assert mesh.size == 8
    replicated, by_row = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def forward(variables, images):
        # With a trace, so that the last block has a plan too.
        return model.apply(variables, images, trace=True, restore=True, method="features")

    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(forward, n=1), in_shardings=(replicated, by_row), out_shardings=by_row)
    for _ in range(3):
        traced = jitted.trace(*shapes_of(model, 8))
    # The program is not run, so a low optimization level suffices.
    text = traced.lower().compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()
    assert "ENTRY" in text
    # The text includes the name of this test, which therefore must not contain any of these names.
    assert not [name for name in COLLECTIVES if name in text]
    assert "callback" not in text
    # Every product has a short dimension (width, head width or removed tokens); no map is multiplied by a map. Only
    # meetings of attention, and walks between all pairs of tokens, need such products.
    has_pairs = isinstance(reducer, tc.TCViT) and (reducer.affinity != "attention" or reducer.selection == "cover")
    if not (has_pairs and ((reducer.match_order or reducer.order) > 1 or reducer.affinity == "meeting")):
        assert max(min(sides) for sides, _ in products(traced.jaxpr.jaxpr)) < 28


def test_collective_check_can_fail():
    mesh = sharding.data_mesh()
    total = jax.jit(jnp.sum, in_shardings=sharding.batch_sharding(mesh), out_shardings=sharding.replicated(mesh))
    text = total.lower(jax.ShapeDtypeStruct((16, 4), np.float32)).compile().as_text()
    assert "all-reduce" in text


def test_product_check_can_fail():
    program = jax.make_jaxpr(lambda walk: walk @ walk @ walk)(jnp.ones((2, 37, 37)))
    assert [min(sides) for sides, _ in products(program.jaxpr)] == [37, 37]


@pytest.mark.parametrize("reducer", METHODS)
def test_eight_devices_match_one_without_recompilation(reducer):
    model = small(reducer, 8, depth=2)
    variables, mesh = variables_of(model), sharding.data_mesh()
    placed = sharding.place_replicated(variables, mesh)
    chex.clear_trace_counter()
    # One trace for one device and one for eight.
    forward = jax.jit(chex.assert_max_traces(lambda v, x: model.apply(v, x), n=2))
    for seed in range(3):
        images = images_of(8, seed)
        logits = forward(placed, sharding.place({"x": images}, mesh)["x"])
        np.testing.assert_allclose(logits, forward(variables, images), rtol=0, atol=5e-6)


def test_reducers_add_no_parameters():
    shapes = [
        traverse_util.flatten_dict(models.parameter_shapes(small(kind(), 8)), sep="/") for kind in REDUCERS.values()
    ]
    plain = traverse_util.flatten_dict(models.parameter_shapes(small()), sep="/")
    assert all(shape == plain for shape in shapes)
