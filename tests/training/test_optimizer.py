"""The learning rate's course, and the optimizer. What decays, and by which layer, `tests/models/test_parameters.py` holds."""

from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import tcvit_jax as tc
from tcvit_jax import config, models
from tcvit_jax.models.parameters import Parameter, ParameterTable
from tcvit_jax.training import optimizer
from tests.models.builders import small


def settings(**changes):
    return SimpleNamespace(**{**config.default().optimizer, **changes})


def course(rate, steps):
    """The rate after each number of steps, as one compiled program."""
    return np.asarray(jax.jit(jax.vmap(rate))(np.arange(steps)))


def test_rate_rises_linearly_then_follows_a_cosine():
    rate = optimizer.learning_rate(settings(lr=1.0, min_lr=0.1, warmup_epochs=2.0), 100, 5.0)
    steps = np.arange(101)
    cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * (steps - 10) / 90)) / 2
    np.testing.assert_allclose(course(rate, 101), np.where(steps < 10, steps / 10, cosine), rtol=0, atol=1e-6)
    assert rate(100) == pytest.approx(0.1)


def test_rate_without_prefix_is_the_cosine_of_the_whole_run_behind_its_warm_up():
    """DeiT's: what the warm-up covers of the cosine is left out."""
    rate = optimizer.learning_rate(
        settings(lr=1.0, min_lr=0.1, warmup_lr=0.02, warmup_epochs=2.0, warmup_prefix=False), 100, 5.0
    )
    steps = np.arange(101)
    cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * steps / 100)) / 2
    np.testing.assert_allclose(course(rate, 101), np.where(steps < 10, 0.02 + steps * 0.098, cosine), rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", [False, True])
def test_rate_equals_timm_s_scheduler(timm, torch, prefix):
    from timm.scheduler import CosineLRScheduler

    values = settings(lr=5e-4, lr_batch_size=512, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5.0, warmup_prefix=prefix)
    total, per_epoch = 1200, 40
    rate = optimizer.learning_rate(values, total, per_epoch, batch_size=1024)
    weights = torch.nn.Parameter(torch.zeros(1))
    schedule = CosineLRScheduler(
        torch.optim.SGD([weights], lr=1e-3), t_initial=total - 200 * prefix, lr_min=1e-5, warmup_t=200, warmup_lr_init=1e-6,
        warmup_prefix=prefix, t_in_epochs=False,
    )  # fmt: skip
    found = course(rate, total)
    expected = [schedule._get_lr(step)[0] for step in range(total)]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-10)
    assert found.max() == pytest.approx(1e-3, rel=1e-2)


def test_rate_is_scaled_to_the_batch():
    rate = optimizer.learning_rate(settings(lr=5e-4, lr_batch_size=512, warmup_epochs=0.0), 100, 5.0, batch_size=2048)
    assert rate(0) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"warmup_epochs": 20.0},
            "optimizer.warmup_epochs=20.0: must be shorter than the run; it is 100 steps, and the run has 100",
        ),
        ({"lr": 1e-6}, "optimizer.min_lr=1e-05: must be at most optimizer.lr, which is 1e-06 at this batch size"),
        (
            {"lr_batch_size": 10**5},
            "optimizer.min_lr=1e-05: must be at most optimizer.lr, which is 1e-08 at this batch size",
        ),
    ],
)
def test_impossible_courses(changes, message):
    with pytest.raises(tc.InputError, match=message):
        optimizer.learning_rate(settings(**changes), 100, 5.0)


TOY = ParameterTable(
    "Toy",
    (
        Parameter("token", "token", "embedding"),
        Parameter("blocks_{block}/bias", "bias", "block"),
        Parameter("w/kernel", "kernel", "head", decays=True),
        Parameter("w/bias", "bias", "head"),
    ),
)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_one_step_is_adamw_written_out(clip):
    values = settings(weight_decay=0.1, clip_norm=clip)
    tx = optimizer.adamw(values, optax.constant_schedule(0.01), TOY, 0)
    params = {"w": {"kernel": np.full((2, 2), 2.0, np.float32), "bias": np.full(2, 2.0, np.float32)}}
    gradient = {"w": {"kernel": np.full((2, 2), 3.0, np.float32), "bias": np.full(2, -4.0, np.float32)}}
    updates = jax.jit(lambda gradient, params: tx.update(gradient, tx.init(params), params)[0])(gradient, params)
    # The first step of Adam is the sign of the gradient, whatever its scale; decay joins for the matrix alone.
    np.testing.assert_allclose(updates["w"]["kernel"], -0.01 * (1 + 0.1 * 2), rtol=1e-3)
    np.testing.assert_allclose(updates["w"]["bias"], 0.01, rtol=1e-3)


def test_layer_decay_is_part_of_the_optimizer():
    """Its factor is that of every layer, after Adam and weight decay."""
    ones, updates = np.ones(2, np.float32), []
    params = {
        "token": ones,
        "blocks_0": {"bias": ones},
        "blocks_1": {"bias": ones},
        "w": {"bias": ones, "kernel": ones},
    }
    for layer_decay in (1.0, 0.5):
        tx = optimizer.adamw(settings(layer_decay=layer_decay), optax.constant_schedule(0.01), TOY, 2)
        updates.append(jax.jit(lambda params, tx=tx: tx.update(params, tx.init(params), params)[0])(params))
    factors = jax.tree.map(lambda plain, decayed: float(decayed[0] / plain[0]), *updates)
    expected = {"token": 0.125, "blocks_0": {"bias": 0.25}, "blocks_1": {"bias": 0.5}, "w": {"bias": 1, "kernel": 1}}
    assert factors == expected


def test_lower_layers_take_smaller_steps_as_in_timm(timm, torch):
    """The factor of every parameter, by timm's own parameter groups of the same model."""
    from timm.optim import param_groups_layer_decay

    from tcvit_jax import convert

    theirs = timm.create_model(
        "deit_tiny_patch16_224", img_size=24, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=7
    )
    groups = param_groups_layer_decay(theirs, 0.05, theirs.no_weight_decay(), layer_decay=0.7)
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    expected = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"] > 0) for group in groups for p in group["params"]
    }
    model = small(depth=3, num_heads=3)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), models.parameter_shapes(model))
    scaled, _ = optimizer.scale_by_layer(0.7, model.PARAMETERS, 3).update(ones, optax.EmptyState())
    decayed = jax.tree.map(
        lambda flag, leaf: np.full_like(leaf, flag), optimizer.decay_mask(ones, model.PARAMETERS), ones
    )
    found, mask = (convert.to_torch({"params": tree}, model) for tree in (scaled, decayed))
    assert set(found) == set(expected)
    for name, (scale, decays) in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), scale, rtol=1e-6, err_msg=name)
        assert bool(np.asarray(mask[name]).all()) == decays, name
