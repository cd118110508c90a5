"""What the compiled forward pass holds on eight devices, and how often it is traced: every method, every switch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tcvit_jax import models, sharding
from tcvit_jax.reducers import REDUCERS
from tests.models.builders import images_of, small, variables_of
from tests.models.programs import products
from tests.switches import COMPILED_SWITCHES, WAYS

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
METHODS = [pytest.param(None, id="dense"), *WAYS]


def shapes_of(model, batch):
    images = jax.ShapeDtypeStruct((batch, *model.img_size, model.in_chans), np.float32)
    return {"params": models.parameter_shapes(model)}, images


@pytest.mark.parametrize("reducer", [pytest.param(None, id="dense"), *COMPILED_SWITCHES])
def test_forward_stays_on_each_device_calls_no_host_multiplies_no_maps_and_is_traced_once(reducer):
    model = small(reducer, 4, depth=2)
    mesh = sharding.data_mesh()
    assert mesh.size == 8
    whole, cut = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    def forward(variables, images):
        # With a trace and all tokens, so that the last block is planned too.
        return model.apply(variables, images, trace=True, restore=True, method="features")

    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(forward, n=1), in_shardings=(whole, cut), out_shardings=cut)
    for _ in range(3):
        traced = jitted.trace(*shapes_of(model, 8))
    # Nothing runs: the machine code may be slow.
    text = traced.lower().compile(compiler_options={"xla_backend_optimization_level": 0}).as_text()
    assert "ENTRY" in text
    assert not [name for name in COLLECTIVES if name in text]
    assert "callback" not in text
    # Every product has a short side: the width, a head, the removed tokens. None multiplies a map by a map.
    assert max(min(sides) for sides, _ in products(traced.jaxpr.jaxpr)) < 28


def test_the_collective_check_can_fail():
    mesh = sharding.data_mesh()
    total = jax.jit(jnp.sum, in_shardings=sharding.batch_sharding(mesh), out_shardings=sharding.replicated(mesh))
    text = total.lower(jax.ShapeDtypeStruct((16, 4), np.float32)).compile().as_text()
    assert "all-reduce" in text


def test_the_check_of_products_can_fail():
    program = jax.make_jaxpr(lambda walk: walk @ walk @ walk)(jnp.ones((2, 37, 37)))
    assert [min(sides) for sides, _ in products(program.jaxpr)] == [37, 37]


@pytest.mark.parametrize("reducer", METHODS)
def test_eight_devices_give_what_one_gives_and_new_images_do_not_compile_again(reducer):
    model = small(reducer, 8, depth=2)
    variables, mesh = variables_of(model), sharding.data_mesh()
    placed = sharding.place_replicated(variables, mesh)
    chex.clear_trace_counter()
    # Once for one device, and once for eight.
    forward = jax.jit(chex.assert_max_traces(lambda v, x: model.apply(v, x), n=2))
    for seed in range(3):
        images = images_of(8, seed)
        shared = forward(placed, sharding.place({"x": images}, mesh)["x"])
        np.testing.assert_allclose(shared, forward(variables, images), rtol=0, atol=5e-6)


def test_reducers_add_no_parameter():
    shapes = [
        traverse_util.flatten_dict(models.parameter_shapes(small(kind(), 8)), sep="/") for kind in REDUCERS.values()
    ]
    plain = traverse_util.flatten_dict(models.parameter_shapes(small()), sep="/")
    assert all(shape == plain for shape in shapes)
