"""One step: the right gradient, the same on one device and on eight, and no more communication than it takes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tcvit_jax.training.step import cross_entropy, make_init, make_train_step
from tests.convert import cases
from tests.models.test_vit import small
from tests.switches import OWN

PREPROCESSING = models.preprocessing("deit_tiny_patch16_224")
EIGHT = sharding.data_mesh()
ONE = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


def batch_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rows, 24, 24, 3), np.uint8)
    return {"image": image, "label": rng.integers(0, 7, rows).astype(np.int32)}


def compiled(model, mesh, batch, ema_decay=0.9):
    """The first state, and the compiled step."""
    tx = optax.sgd(0.1)
    state = jax.jit(make_init(model, tx, 0), out_shardings=sharding.replicated(mesh))()
    step = make_train_step(model, tx, PREPROCESSING, mesh, seed=0, label_smoothing=0.1, ema_decay=ema_decay)
    return state, step.lower(state, sharding.place(batch_of(batch), mesh)).compile()


def steps(model, mesh, count, batch=8, ema_decay=0.9):
    state, step = compiled(model, mesh, batch, ema_decay)
    return advance(state, step, mesh, count, batch)


def advance(state, step, mesh, count, batch=8):
    losses = []
    for index in range(count):
        state, metrics = step(state, sharding.place(batch_of(batch, index), mesh))
        losses.append(float(metrics["loss"]))
    return state, losses


def all_reduced(line):
    """Shapes of the arrays that a line of the compiled program reduces over devices."""
    found = re.search(r"= (.*?) all-reduce(-start)?\(", line)
    return [
        tuple(int(side) for side in shape.split(",") if side)
        for shape in re.findall(r"\w+\[([\d,]*)\]", found.group(1) if found else "")
    ]


@pytest.mark.parametrize("reducer", [None, *OWN])
def test_eight_devices_train_as_one_and_exchange_the_mean_of_the_gradients_alone(reducer):
    model = small(reducer, 8, drop_path_rate=0.2)
    one, losses_one = steps(model, ONE, 3)
    first, step = compiled(model, EIGHT, 8)
    text, shapes = step.as_text(), [leaf.shape for leaf in jax.tree.leaves(first.variables)]
    eight, losses_eight = advance(first, step, EIGHT, 3)
    np.testing.assert_allclose(losses_eight, losses_one, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(eight.variables), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6)
    exchanged = sum(int(np.prod(shape)) for line in text.splitlines() for shape in all_reduced(line))
    # Every gradient once, and the mean loss: as many numbers, and no activation beside them.
    assert exchanged == sum(int(np.prod(shape)) for shape in shapes) + 1
    assert not [name for name in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter") if name in text]


def test_loss_falls_on_one_batch():
    model, tx = small(tc.TCViT(), 8), optax.adam(3e-3)
    state = jax.jit(make_init(model, tx, 0))()
    step = make_train_step(model, tx, PREPROCESSING, ONE, seed=0, label_smoothing=0.0, ema_decay=0.9)
    batch, losses = sharding.place(batch_of(8), ONE), []
    for _ in range(25):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.step) == 25


def test_average_starts_quickly_and_settles_at_its_decay():
    model = small()
    tx = optax.sgd(0.1)
    before = jax.jit(make_init(model, tx, 0))()
    bias = np.asarray(before.variables["params"]["head"]["bias"])
    after, _ = steps(model, ONE, 1, ema_decay=0.9)
    moved = np.asarray(after.variables["params"]["head"]["bias"])
    # The first decay is min(0.9, 1 / 10).
    np.testing.assert_allclose(after.ema["params"]["head"]["bias"], 0.1 * bias + 0.9 * moved, rtol=1e-5, atol=1e-7)


def test_cross_entropy_is_the_plain_formula():
    rng = np.random.default_rng(0)
    logits, label = rng.standard_normal((5, 7)), rng.integers(0, 7, 5)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    target = 0.9 * np.eye(7)[label] + 0.1 / 7
    expected = -(target * log_p).sum(-1).mean()
    assert float(cross_entropy(jnp.asarray(logits), jnp.asarray(label), 0.1)) == pytest.approx(expected, rel=1e-5)


def test_batch_statistics_are_trained_averaged_and_the_same_on_eight_devices():
    _, sizes, _, _ = cases.case("lvvit")
    sizes = {**sizes, "depth": 1, "img_size": 64, "stem_channels": 8, "num_classes": 7}
    model, tx = tc.create_model("lvvit_s", tc.TCViT(), 5, **sizes), optax.adamw(1e-3)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 64, 64, 3), np.uint8), "label": (np.arange(8) % 7).astype(np.int32)}
    found = {}
    for mesh in (ONE, EIGHT):
        before = jax.jit(make_init(model, tx, 0), out_shardings=sharding.replicated(mesh))()
        kept = jax.tree.map(np.asarray, before.variables)
        step = make_train_step(model, tx, PREPROCESSING, mesh, seed=0, label_smoothing=0.0, ema_decay=0.9)
        after, metrics = step(before, sharding.place(batch, mesh))
        assert np.isfinite(float(metrics["loss"]))
        found[mesh.size] = after.variables["batch_stats"]
    assert set(after.variables) == set(after.ema) == {"params", "batch_stats"}
    old, new, average = (
        np.asarray(tree["batch_stats"]["patch_embed"]["bn3"]["var"]) for tree in (kept, after.variables, after.ema)
    )
    assert np.abs(new - old).min() > 1e-4
    np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, rtol=1e-5)
    # Of the whole batch, on however many devices.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found[1], found[8])
    # The optimiser's moments are of parameters alone.
    assert jax.tree.structure(after.opt_state[0].mu) == jax.tree.structure(after.variables["params"])
