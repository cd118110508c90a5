"""EViT's numbers of tokens over several stages, as its authors count them."""

from dataclasses import replace
from math import ceil

import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.models.trunk import BlockSpec
from tests.models.builders import images_of, run, small, variables_of

DEPTH = 6


def simulate(reducer, stages, rate, images):
    """Return the logits, and the number of patch tokens after every block, of an explicit simulation.

    In a stage, `ceil(rate * tokens)` of the patch tokens with the highest class attention stay, where the fused token of
    the last stage is a token like the others. All others become one fused token. A stage that keeps all tokens does
    nothing.
    """
    model = small(reducer, [2] * DEPTH, depth=DEPTH)
    network = model.bind(variables_of(model))
    tokens, counts = network.start(images), []
    for index, block in enumerate(network.blocks):
        tokens, signals = block.attend(tokens, BlockSpec(num_removed=2), False)
        x, rows = np.asarray(tokens.x, np.float64), np.asarray(signals.class_row, np.float64).mean(1)
        keep = ceil(round(rate * (x.shape[1] - 1), 9))
        if index in stages and keep < x.shape[1] - 1:
            images_after = []
            for image, attention in zip(x, rows, strict=True):
                order = sorted(range(1, len(image)), key=lambda i, attention=attention: -attention[i])
                fused = sum(attention[i] * image[i] for i in order[keep:])
                images_after.append(np.vstack([image[[0, *sorted(order[:keep])]], fused]))
            tokens = replace(tokens, x=jnp.asarray(np.stack(images_after), jnp.float32))
        counts.append(tokens.x.shape[1] - 1)
        tokens = block.feed_forward(tokens, False)
    return network.logits(tokens, False), tuple(counts)


# 36 patches. At 0.95, stages replace one token by one fused token; at 0.99, they keep all tokens.
@pytest.mark.parametrize(
    ("stages", "rate"),
    [((1, 2, 4), 0.7), ((0, 1, 2), 0.95), ((0, 1, 2, 3), 0.99), pytest.param((2, 3, 4), 0.05, marks=pytest.mark.slow)],
)
def test_stages_equal_a_simulation_in_which_the_fused_token_is_a_token(stages, rate):
    reducer = tc.EViT()
    model = small(reducer, tc.schedule.stages(stages, rate), depth=DEPTH)
    logits, counts = simulate(reducer, stages, rate, images_of(2))
    assert model.cost().tokens[1:] == counts
    np.testing.assert_allclose(run(model, variables_of(model), images_of(2)), logits, atol=2e-4)


def test_keep_rate_counts_as_stages_in_all_blocks():
    everywhere = tuple(range(DEPTH))
    for rate in (0.9, 0.97, 0.3):
        models = [
            small(tc.EViT(), schedule, depth=DEPTH)
            for schedule in (tc.schedule.keep_rate(rate), tc.schedule.stages(everywhere, rate))
        ]
        assert models[0].removed == models[1].removed
    # One of 36 tokens is replaced by one fused token in every block.
    assert small(tc.EViT(), tc.schedule.keep_rate(0.97), depth=DEPTH).removed == (1,) * DEPTH


def test_saved_models_keep_blocks_that_replace_one_token():
    model = small(tc.EViT(), tc.schedule.keep_rate(0.97), depth=DEPTH)
    assert tc.condense(model, tc.EViT(), list(model.removed)).removed == model.removed
