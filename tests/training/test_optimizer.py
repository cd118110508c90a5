"""The learning rate's course, and what decays."""

import jax
import numpy as np
import optax
import pytest

import tcvit_jax as tc
from tcvit_jax import config
from tcvit_jax.training import optimizer
from tests.models.test_vit import small, variables_of


def settings(**changes):
    values = config.default().optimizer
    values.update(changes)
    return values


def test_rate_rises_linearly_then_follows_a_cosine():
    rate = optimizer.learning_rate(settings(lr=1.0, min_lr=0.1, warmup_epochs=2.0), 100, 5.0)
    for step in range(10):
        assert rate(step) == pytest.approx(step / 10)
    for step in range(10, 101):
        expected = 0.1 + 0.9 * (1 + np.cos(np.pi * (step - 10) / 90)) / 2
        assert rate(step) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_epochs": 20.0}, r"warmup_epochs=20.0 is 100 steps, and the run has 100: use less"),
        ({"lr": 0.0}, "use 0 <= min_lr <= lr and lr > 0"),
        ({"lr": 1e-6}, "use 0 <= min_lr <= lr and lr > 0"),
    ],
)
def test_impossible_courses(changes, message):
    with pytest.raises(tc.InputError, match=message):
        optimizer.learning_rate(settings(**changes), 100, 5.0)


def test_matrices_decay_and_vectors_and_tokens_do_not():
    params = variables_of(small())["params"]
    mask = optimizer.decays(params)
    decayed = {jax.tree_util.keystr(p, simple=True, separator="/") for p, v in jax.tree.leaves_with_path(mask) if v}
    kernels = {
        name for p, _ in jax.tree.leaves_with_path(params)
        if (name := jax.tree_util.keystr(p, simple=True, separator="/")).endswith("kernel")
    }  # fmt: skip
    assert decayed == kernels
    assert "patch_embed/kernel" in decayed


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_one_step_is_adamw_written_out(clip):
    values = settings(weight_decay=0.1, clip_norm=clip)
    tx = optimizer.adamw(values, optax.constant_schedule(0.01))
    params = {"w": {"kernel": np.full((2, 2), 2.0, np.float32), "bias": np.full(2, 2.0, np.float32)}}
    gradient = {"w": {"kernel": np.full((2, 2), 3.0, np.float32), "bias": np.full(2, -4.0, np.float32)}}
    updates, _ = tx.update(gradient, tx.init(params), params)
    # The first step of Adam is the sign of the gradient, whatever its scale; decay joins for the matrix alone.
    np.testing.assert_allclose(updates["w"]["kernel"], -0.01 * (1 + 0.1 * 2), rtol=1e-3)
    np.testing.assert_allclose(updates["w"]["bias"], 0.01, rtol=1e-3)
