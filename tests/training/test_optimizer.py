"""The learning rate schedule and the optimizer. `tests/models/test_parameters.py` tests the weight decay and layers."""

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


def evaluate_schedule(schedule, steps):
    """Return the learning rate at each of the first `steps` steps, computed by one compiled program."""
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps)))


def test_learning_rate_is_linear_warmup_then_cosine():
    schedule = optimizer.learning_rate(settings(lr=1.0, min_lr=0.1, warmup_epochs=2.0), 100, 5.0)
    steps = np.arange(101)
    cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * (steps - 10) / 90)) / 2
    np.testing.assert_allclose(
        evaluate_schedule(schedule, 101), np.where(steps < 10, steps / 10, cosine), rtol=0, atol=1e-6
    )
    assert schedule(100) == pytest.approx(0.1)


def test_learning_rate_without_prefix_is_a_cosine_over_the_full_run():
    """As in DeiT, the warm-up replaces the beginning of the cosine."""
    schedule = optimizer.learning_rate(
        settings(lr=1.0, min_lr=0.1, warmup_lr=0.02, warmup_epochs=2.0, warmup_prefix=False), 100, 5.0
    )
    steps = np.arange(101)
    cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * steps / 100)) / 2
    np.testing.assert_allclose(
        evaluate_schedule(schedule, 101), np.where(steps < 10, 0.02 + steps * 0.098, cosine), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("prefix", [False, True])
def test_learning_rate_equals_timm_scheduler(timm, torch, prefix):
    from timm.scheduler import CosineLRScheduler

    values = settings(lr=5e-4, lr_batch_size=512, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=5.0, warmup_prefix=prefix)
    total, per_epoch = 1200, 40
    schedule = optimizer.learning_rate(values, total, per_epoch, batch_size=1024)
    weights = torch.nn.Parameter(torch.zeros(1))
    scheduler = CosineLRScheduler(
        torch.optim.SGD([weights], lr=1e-3), t_initial=total - 200 * prefix, lr_min=1e-5, warmup_t=200, warmup_lr_init=1e-6,
        warmup_prefix=prefix, t_in_epochs=False,
    )  # fmt: skip
    actual = evaluate_schedule(schedule, total)
    expected = [scheduler._get_lr(step)[0] for step in range(total)]
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-10)
    assert actual.max() == pytest.approx(1e-3, rel=1e-2)


def test_learning_rate_is_scaled_to_the_batch_size():
    schedule = optimizer.learning_rate(
        settings(lr=5e-4, lr_batch_size=512, warmup_epochs=0.0), 100, 5.0, batch_size=2048
    )
    assert schedule(0) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"warmup_epochs": 20.0},
            "optimizer.warmup_epochs=20.0: must be shorter than the run; the warm-up has 100 steps and the run has 100",
        ),
        ({"lr": 1e-6}, "optimizer.min_lr=1e-05: must be <= optimizer.lr, which is 1e-06 at this batch size"),
        (
            {"lr_batch_size": 10**5},
            "optimizer.min_lr=1e-05: must be <= optimizer.lr, which is 1e-08 at this batch size",
        ),
    ],
)
def test_invalid_learning_rate_is_an_error(changes, message):
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
def test_first_update_is_adamw(clip):
    values = settings(weight_decay=0.1, clip_norm=clip)
    tx = optimizer.adamw(values, optax.constant_schedule(0.01), TOY, 0)
    params = {"w": {"kernel": np.full((2, 2), 2.0, np.float32), "bias": np.full(2, 2.0, np.float32)}}
    gradient = {"w": {"kernel": np.full((2, 2), 3.0, np.float32), "bias": np.full(2, -4.0, np.float32)}}
    updates = jax.jit(lambda gradient, params: tx.update(gradient, tx.init(params), params)[0])(gradient, params)
    # The first update of Adam is the sign of the gradient at any scale; weight decay applies to the matrix only.
    np.testing.assert_allclose(updates["w"]["kernel"], -0.01 * (1 + 0.1 * 2), rtol=1e-3)
    np.testing.assert_allclose(updates["w"]["bias"], 0.01, rtol=1e-3)


def test_layer_decay_scales_the_updates_of_the_optimizer():
    """The factor of each layer applies after Adam and weight decay."""
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
    factors = jax.tree.map(lambda update, scaled_update: float(scaled_update[0] / update[0]), *updates)
    expected = {"token": 0.125, "blocks_0": {"bias": 0.25}, "blocks_1": {"bias": 0.5}, "w": {"bias": 1, "kernel": 1}}
    assert factors == expected


def test_layer_decay_and_weight_decay_equal_timm(timm, torch):
    """The factor of every parameter, compared with timm's parameter groups of the same model."""
    from timm.optim import param_groups_layer_decay

    from tcvit_jax import convert

    timm_model = timm.create_model(
        "deit_tiny_patch16_224", img_size=24, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=7
    )
    groups = param_groups_layer_decay(timm_model, 0.05, timm_model.no_weight_decay(), layer_decay=0.7)
    names = {id(parameter): name for name, parameter in timm_model.named_parameters()}
    expected = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"] > 0) for group in groups for p in group["params"]
    }
    model = small(depth=3, num_heads=3)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), models.parameter_shapes(model))
    factors, _ = optimizer.scale_by_layer(0.7, model.PARAMETERS, 3).update(ones, optax.EmptyState())
    decays_tree = jax.tree.map(
        lambda flag, leaf: np.full_like(leaf, flag), optimizer.decay_mask(ones, model.PARAMETERS), ones
    )
    actual, mask = (convert.to_torch({"params": tree}, model) for tree in (factors, decays_tree))
    assert set(actual) == set(expected)
    for name, (scale, decays) in expected.items():
        np.testing.assert_allclose(np.asarray(actual[name]), scale, rtol=1e-6, err_msg=name)
        assert bool(np.asarray(mask[name]).all()) == decays, name
