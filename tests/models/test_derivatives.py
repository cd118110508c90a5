"""Derivatives of whole models in forward and reverse mode, first and second order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tests.models.builders import images_of, small, variables_of
from tests.switches import METHODS, SWITCHES

DISTILLED = {"distilled": True, "act_layer": "quick_gelu"}
POOLED = {"class_token": False, "global_pool": "avg", "qk_norm": True, "init_values": 0.1}
SOFT = tc.TCViT(fuse="soft", temperature=0.3, grad_through_soft=True)


def logits_of(model, variables, images, gains):
    """Return the logits of images whose color channels are scaled by `1 + gains`."""
    return model.apply(variables, images * (1 + gains[None, None, None, :]))


@pytest.mark.parametrize(
    ("reducer", "changes"),
    [
        *(pytest.param(*param.values, {}, id=param.id, marks=pytest.mark.slow) for param in METHODS),
        pytest.param(SOFT, DISTILLED, id="soft"),
        pytest.param(tc.Cross(score="tome", fuse="mlerp"), POOLED, id="pooled", marks=pytest.mark.slow),
    ],
)
def test_forward_mode_equals_reverse_mode_and_second_derivatives_are_symmetric(reducer, changes):
    model = small(reducer, 8, depth=2, **changes)
    logits = partial(logits_of, model, variables_of(model), images_of(2))

    @jax.jit
    def derivatives(gains):
        def total(gains):
            return jnp.sin(logits(gains)).sum()

        # The Hessian is made of Hessian-vector products, forward over reverse.
        return jax.jacfwd(logits)(gains), jax.jacrev(logits)(gains), jax.jacfwd(jax.grad(total))(gains)

    forward, reverse, hessian = derivatives(jnp.asarray([0.1, -0.2, 0.05], jnp.float32))
    assert forward.shape == (2, 7, 3)
    scale = np.abs(reverse).max()
    assert scale > 1e-3
    np.testing.assert_allclose(forward, reverse, rtol=0, atol=2e-5 * scale)
    assert np.abs(hessian).max() > 1e-3
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=5e-5 * np.abs(hessian).max())


def test_forward_mode_equals_finite_differences():
    # No reduction, which is not continuous.
    model = small(depth=2)
    logits = jax.jit(partial(logits_of, model, variables_of(model), images_of(2)))
    gains, direction, step = jnp.zeros(3), jnp.asarray([1.0, -0.5, 0.3]), 1e-2
    _, tangent = jax.jvp(logits, (gains,), (direction,))
    difference = (logits(gains + step * direction) - logits(gains - step * direction)) / (2 * step)
    np.testing.assert_allclose(tangent, difference, rtol=0, atol=2e-3 * np.abs(tangent).max())


@pytest.mark.parametrize("reducer", SWITCHES)
def test_every_reducer_has_derivatives_of_both_modes_and_second_order(reducer):
    """Tracing finds rules that are missing; the values are those of the tests above."""
    model = small(reducer, 8, depth=2)
    variables = variables_of(model)

    def loss(images):
        return model.apply(variables, images).sum()

    images = images_of(2)
    _, product = jax.eval_shape(lambda images: jax.jvp(jax.grad(loss), (images,), (images,)), images)
    assert product.shape == images.shape


def test_derivatives_with_respect_to_parameters_in_training():
    model = small(SOFT, 8, depth=2, drop_path_rate=0.2, drop_rate=0.1)
    variables, images = variables_of(model), images_of(2)

    def loss(variables):
        return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(0)}).sum()

    _, product = jax.eval_shape(lambda tree: jax.jvp(jax.grad(loss), (tree,), (tree,)), variables)
    assert jax.tree.map(jnp.shape, product) == jax.tree.map(jnp.shape, variables)


def test_lvvit_has_derivatives_of_both_modes():
    sizes = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3, "stem_channels": 8, "num_classes": 7}
    model = tc.create_model("lvvit_s", tc.GTP(), 5, **sizes)
    images = jnp.ones((2, 64, 64, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def product(variables, images):
        def loss(images):
            return model.apply(variables, images).sum()

        return jax.jvp(jax.grad(loss), (images,), (images,))[1]

    assert jax.eval_shape(product, variables, images).shape == images.shape
