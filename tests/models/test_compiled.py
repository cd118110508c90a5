"""What the compiled forward pass holds on eight devices, and how often it is traced."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tcvit_jax import models, sharding
from tcvit_jax.reducers import REDUCERS
from tests.models.test_vit import images_of, small, variables_of

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
METHODS = [pytest.param(None, id="dense"), *(pytest.param(kind(), id=name) for name, kind in REDUCERS.items())]


def compiled_forward(model, batch=16):
    mesh = sharding.data_mesh()
    assert mesh.size == 8
    whole, cut = sharding.replicated(mesh), sharding.split(mesh)
    images = jax.ShapeDtypeStruct((batch, *model.img_size, model.in_chans), np.float32)

    def forward(variables, images):
        return model.apply(variables, images, trace=True)

    jitted = jax.jit(forward, in_shardings=(whole, cut), out_shardings=cut)
    return jitted.lower({"params": models.parameter_shapes(model)}, images).compile()


@pytest.mark.parametrize("reducer", METHODS)
def test_forward_on_eight_devices_stays_on_each_device(reducer):
    text = compiled_forward(small(reducer, 8)).as_text()
    assert "ENTRY" in text
    assert not [name for name in COLLECTIVES if name in text]
    assert "callback" not in text


def test_the_collective_check_can_fail():
    mesh = sharding.data_mesh()
    total = jax.jit(jnp.sum, in_shardings=sharding.split(mesh), out_shardings=sharding.replicated(mesh))
    text = total.lower(jax.ShapeDtypeStruct((16, 4), np.float32)).compile().as_text()
    assert "all-reduce" in text


@pytest.mark.parametrize("reducer", METHODS)
def test_forward_is_traced_once(reducer):
    model = small(reducer, 8)
    variables = variables_of(model)
    chex.clear_trace_counter()
    forward = jax.jit(chex.assert_max_traces(lambda v, x: model.apply(v, x), n=1))
    for seed in range(3):
        forward(variables, images_of(2, seed))


@pytest.mark.parametrize("reducer", METHODS)
def test_eight_devices_give_what_one_gives(reducer):
    model = small(reducer, 8)
    variables, images = variables_of(model), images_of(8)
    mesh = sharding.data_mesh()
    shared = jax.jit(model.apply)(sharding.place_whole(variables, mesh), sharding.place({"x": images}, mesh)["x"])
    alone = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(shared, alone, rtol=0, atol=5e-6)


def test_reducers_add_no_parameter():
    shapes = [
        traverse_util.flatten_dict(models.parameter_shapes(small(kind(), 8)), sep="/") for kind in REDUCERS.values()
    ]
    plain = traverse_util.flatten_dict(models.parameter_shapes(small()), sep="/")
    assert all(shape == plain for shape in shapes)
