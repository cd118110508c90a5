"""The signal `mlp_norm`: the norm of what the MLP branch of a block adds to each token."""

from dataclasses import replace
from math import erf

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.models.trunk import BlockSpec
from tests.models.builders import images_of, small, variables_of

SHIFT = tc.RepresentationShift()
SPEC = BlockSpec(num_removed=8)


def first_block(model, **options):
    network = model.bind(variables_of(model), **options)
    return network.blocks[0], network.start(images_of(2))


@pytest.mark.parametrize("overrides", [{}, {"init_values": 0.5, "mlp_layer": "swiglu", "act_layer": "silu"}])
def test_signal_equals_the_formula(overrides):
    """In NumPy float64, with LayerScale and a gated MLP in the second case."""
    model = small(SHIFT, 8, **overrides)
    block, tokens = first_block(model)
    after, signals = block.attend(tokens, SPEC, False)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables_of(model)["params"]["blocks_0"])
    expected = np.zeros(after.x.shape[:2])
    for index in np.ndindex(expected.shape):
        x = np.asarray(after.x[index], np.float64)
        x = (x - x.mean()) / np.sqrt(x.var() + model.norm_eps) * params["norm2"]["scale"] + params["norm2"]["bias"]
        y = x @ params["mlp"]["fc1"]["kernel"] + params["mlp"]["fc1"]["bias"]
        if overrides:
            gate, value = np.split(y, 2)
            y = gate / (1 + np.exp(-gate)) * value
        else:
            y = y * (1 + np.vectorize(erf)(y / 2**0.5)) / 2
        y = y @ params["mlp"]["fc2"]["kernel"] + params["mlp"]["fc2"]["bias"]
        expected[index] = np.linalg.norm(y * params["ls2"]["gamma"] if overrides else y)
    np.testing.assert_allclose(signals.mlp_norm, expected, rtol=1e-4)
    # It is the norm of what the rest of the block adds to the tokens.
    update = block.feed_forward(after, False).x - after.x
    np.testing.assert_allclose(jnp.linalg.norm(update, axis=-1), expected, rtol=1e-4)


def test_signal_has_no_dropout_and_no_gradient():
    model = small(SHIFT, 8, proj_drop_rate=0.0, drop_path_rate=0.5)
    block, tokens = first_block(model, rngs={"dropout": jax.random.key(0)})
    expected = block.attend(tokens, SPEC, False)[1].mlp_norm
    np.testing.assert_allclose(block.attend(tokens, SPEC, True)[1].mlp_norm, expected, rtol=1e-5)
    dropping = replace(model, proj_drop_rate=0.5)
    block, tokens = first_block(dropping, rngs={"dropout": jax.random.key(0)})
    after, signals = block.attend(tokens, SPEC, True)
    update = block.feed_forward(after, False).x - after.x
    np.testing.assert_allclose(signals.mlp_norm, jnp.linalg.norm(update, axis=-1), rtol=1e-4)
    gradient = jax.grad(lambda x: block.attend(tokens.with_x(x), SPEC, False)[1].mlp_norm.sum())(tokens.x)
    np.testing.assert_array_equal(gradient, 0)


def test_signal_is_computed_and_charged_only_if_requested():
    model = small(tc.ToMe(), 8)
    block, tokens = first_block(model)
    assert block.attend(tokens, SPEC, False)[1].mlp_norm is None
    cost = small(SHIFT, [8, 0, 0]).cost()
    # 36 patches and the class token; the MLP is four times as wide as the 24 features.
    assert [block.reducer_macs.signals for block in cost.blocks] == [8 * 2 * 24 * 96, 0, 0]
    merging = small(tc.RepresentationShift(fuse="hard"), [8, 0, 0]).cost()
    assert [block.reducer_macs.signals for block in merging.blocks] == [37 * 2 * 24 * 96, 0, 0]


def test_mlp_of_kept_tokens_is_not_computed_again():
    """The result is that of the MLP of the kept tokens, and so is the gradient."""
    model = small(SHIFT, [20, 0, 0], global_pool="avg")
    variables, images = variables_of(model), images_of(2)

    def loss(variables):
        network = model.bind(variables)
        block, tokens = network.blocks[0], network.start(images)
        return (block(tokens, BlockSpec(num_removed=20), False).x ** 2).sum()

    def expected_loss(variables):
        network = model.bind(variables)
        block, tokens = network.blocks[0], network.start(images)
        after, signals = block.attend(tokens, BlockSpec(num_removed=20), False)
        return (block.feed_forward(SHIFT.reduce(after, signals, 16)[0], False).x ** 2).sum()

    value, gradient = jax.value_and_grad(loss)(variables)
    expected, expected_gradient = jax.value_and_grad(expected_loss)(variables)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()) + 1e-12),
        gradient,
        expected_gradient,
    )


def test_kept_tokens_are_those_that_the_mlp_changes():
    model = small(SHIFT, [20, 0, 0])
    _, trace = model.apply(variables_of(model), images_of(2), trace=True)
    block, tokens = first_block(model)
    norms = np.asarray(block.attend(tokens, SPEC, False)[1].mlp_norm)[:, 1:]
    for kept, norm in zip(trace.kept[0], norms, strict=True):
        np.testing.assert_array_equal(kept, np.sort(np.argsort(-norm, kind="stable")[:16]))
