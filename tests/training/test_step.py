"""One step: the right gradient, the same on one device and on eight, and no more communication than it takes."""

import re
from functools import cache, reduce
from operator import getitem
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tcvit_jax.training.mixing import Mixing
from tcvit_jax.training.objective import Objective, Teacher
from tcvit_jax.training.step import TrainState, make_init, make_train_step
from tests.convert import cases
from tests.models.builders import small

PREPROCESSING = models.preprocessing("deit_tiny_patch16_224")
EIGHT = sharding.data_mesh()
ONE = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])


def batch_of(rows, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rows, 24, 24, 3), np.uint8)
    return {"image": image, "label": rng.integers(0, 7, rows).astype(np.int32)}


SGD = optax.sgd(0.1)


@cache
def first_state(model, tx):
    """On the host: every mesh gets a copy of its own, which the step may have."""
    return jax.tree.map(np.asarray, jax.jit(make_init(model, tx, 0))())


def compiled(objective, mesh, batch, teacher_variables=None, tx=SGD, accumulate=1):
    """The first state, the teacher's variables, and the compiled step."""
    first = first_state(objective.model, tx)
    state = jax.device_put(first, sharding.shardings(first, mesh, objective.model.PARAMETERS))
    teacher_variables = sharding.place_replicated(teacher_variables or {}, mesh)
    step = make_train_step(objective, tx, mesh, seed=0, ema_decay=0.9, accumulate=accumulate)
    return (
        state,
        teacher_variables,
        step.lower(state, teacher_variables, sharding.place(batch_of(batch), mesh)).compile(),
    )


def advance(state, teacher_variables, step, mesh, count, batch=8):
    losses = []
    for index in range(count):
        state, metrics = step(state, teacher_variables, sharding.place(batch_of(batch, index), mesh))
        losses.append(float(metrics["loss"]))
        np.testing.assert_allclose(np.mean(metrics["row_loss"]), losses[-1], rtol=1e-5)
    return state, losses


def plain(model, **settings):
    return Objective(model, PREPROCESSING, **{"label_smoothing": 0.1, **settings})


def assert_same(one, other, losses_one, losses_other):
    np.testing.assert_allclose(losses_other, losses_one, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6)


def exchanged(text):
    """How many numbers a compiled program reduces over devices."""
    return sum(int(np.prod(shape)) for line in text.splitlines() for shape in all_reduced(line))


def all_reduced(line):
    """Shapes of the arrays that a line of the compiled program reduces over devices."""
    found = re.search(r"= (.*?) all-reduce(-start)?\(", line)
    return [
        tuple(int(side) for side in shape.split(",") if side)
        for shape in re.findall(r"\w+\[([\d,]*)\]", found.group(1) if found else "")
    ]


def test_eight_devices_train_as_one_and_exchange_the_mean_of_the_gradients_alone():
    objective = plain(small(tc.TCViT(), 8, depth=2, drop_path_rate=0.2))
    one, losses_one = advance(*compiled(objective, ONE, 8), ONE, 3)
    first, teacher_variables, step = compiled(objective, EIGHT, 8)
    text, numbers = step.as_text(), sum(leaf.size for leaf in jax.tree.leaves(first.variables))
    eight, losses_eight = advance(first, teacher_variables, step, EIGHT, 3)
    assert_same(one, eight, losses_one, losses_eight)
    # Every gradient once, and the mean loss: as many numbers, and no activation beside them.
    assert exchanged(text) == numbers + 1
    assert not [name for name in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter") if name in text]


def test_loss_falls_on_one_batch():
    model, tx = small(tc.TCViT(), 8, depth=2), optax.adam(3e-3)
    state = jax.jit(make_init(model, tx, 0))()
    step = make_train_step(plain(model, label_smoothing=0.0), tx, ONE, seed=0, ema_decay=0.9)
    batch, losses = sharding.place(batch_of(8), ONE), []
    for _ in range(25):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.step) == 25


def test_batch_statistics_are_trained_and_the_same_on_eight_devices_and_averages_start_quickly():
    _, sizes, _, _ = cases.case("lvvit")
    sizes = {**sizes, "depth": 1, "img_size": 64, "stem_channels": 8, "num_classes": 7}
    model, tx = tc.create_model("lvvit_s", tc.TCViT(), 5, **sizes), optax.adamw(1e-3)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 64, 64, 3), np.uint8), "label": (np.arange(8) % 7).astype(np.int32)}
    found = {}
    for mesh in (ONE, EIGHT):
        before = jax.device_put(first_state(model, tx), sharding.replicated(mesh))
        step = make_train_step(plain(model, label_smoothing=0.0), tx, mesh, seed=0, ema_decay=0.9)
        after, metrics = step(before, {}, sharding.place(batch, mesh))
        assert np.isfinite(float(metrics["loss"]))
        found[mesh.size] = after.variables["batch_stats"]
    assert set(after.variables) == set(after.ema) == {"params", "batch_stats"}
    for path in (("batch_stats", "patch_embed", "bn3", "var"), ("params", "head", "bias")):
        trees = (first_state(model, tx).variables, after.variables, after.ema)
        old, new, average = (np.asarray(reduce(getitem, path, tree)) for tree in trees)
        assert np.abs(new - old).min() > 1e-4
        # The first decay is min(0.9, 1 / 10).
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-7)
    # Of the whole batch, on however many devices.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found[1], found[8])
    # The optimizer's moments are of parameters alone.
    assert jax.tree.structure(after.opt_state[0].mu) == jax.tree.structure(after.variables["params"])


FSDP = sharding.make_mesh(2, 4)


def collectives(text):
    """Per collective of a compiled program, the shape of what every device has after it."""
    found = re.findall(
        r"= (\S+|\(.*?\)) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text
    )
    return [
        (kind, tuple(int(side) for side in shape.split(",") if side))
        for shapes, kind in found
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]


def test_shared_parameters_are_gathered_and_their_gradients_scattered_and_nothing_else():
    # Not Adam: it makes steps of the rounding errors that keys' biases have for gradients.
    objective, tx = plain(small(depth=2, drop_path_rate=0.2)), optax.sgd(0.1, momentum=0.9)
    one, losses_one = advance(*compiled(objective, ONE, 8, tx=tx), ONE, 3)
    first, teacher_variables, step = compiled(objective, FSDP, 8, tx=tx)
    shared = {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(first.variables["params"])
        if not leaf.sharding.is_fully_replicated
    }  # fmt: skip
    assert {path.split("'")[-2] for path in shared} == {"kernel", "pos_embed"}
    # A quarter of each on every device; of its moments and averages too.
    parts = sorted(tuple(leaf.addressable_shards[0].data.shape) for leaf in shared.values())
    whole = sorted(tuple(leaf.shape) for leaf in shared.values())
    assert [np.prod(part) * 4 for part in parts] == [np.prod(shape) for shape in whole]
    for tree in (first.ema["params"], first.opt_state[0].trace):
        placed = jax.tree.map(lambda leaf: leaf.sharding, tree)
        assert placed == jax.tree.map(lambda leaf: leaf.sharding, first.variables["params"])
    found = collectives(step.as_text())
    assert {kind for kind, _ in found} == {"all-gather", "reduce-scatter", "all-reduce"}
    assert sorted(shape for kind, shape in found if kind == "all-gather") == whole
    assert sorted(shape for kind, shape in found if kind == "reduce-scatter") == parts
    # Over `data`, each part of a gradient; over both axes, gradients of what every device has, the loss, and the norm.
    rest = [leaf.shape for leaf in jax.tree.leaves(first.variables["params"]) if leaf.sharding.is_fully_replicated]
    reduced = sum(int(np.prod(shape)) for kind, shape in found if kind == "all-reduce")
    scalars = reduced - sum(int(np.prod(shape)) for shape in (*parts, *rest))
    assert 2 <= scalars <= 1 + len(shared)
    after, losses = advance(first, teacher_variables, step, FSDP, 3)
    assert_same(one, after, losses_one, losses)


class Trained(NamedTuple):
    """What two steps make of the first state, and the program of one."""

    numbers: int
    text: str
    state: TrainState
    losses: list[float]


@pytest.fixture(scope="module")
def everything():
    """Every random choice, a condensed student and a teacher: on one device, on eight, and there in micro-batches."""
    model, teacher = small(tc.GTP(), 8, depth=2, drop_path_rate=0.2, proj_drop_rate=0.1), small(depth=1, embed_dim=48)
    objective = plain(
        model, mixing=Mixing(0.8, 1.0), erasing=0.5, mix_token=True, teacher=Teacher(teacher, PREPROCESSING)
    )
    teacher_variables = first_state(teacher, SGD).variables
    found = {}
    for name, mesh, accumulate in (("one", ONE, 1), ("eight", EIGHT, 1), ("micro", EIGHT, 2)):
        state, placed, step = compiled(objective, mesh, 32, teacher_variables=teacher_variables, accumulate=accumulate)
        numbers = sum(leaf.size for leaf in jax.tree.leaves(state.variables))
        found[name] = Trained(numbers, step.as_text(), *advance(state, placed, step, mesh, 2, 32))
    return found


@pytest.mark.parametrize("name", ["eight", "micro"])
def test_rows_draw_the_same_on_one_device_on_eight_and_in_micro_batches(everything, name):
    one, other = everything["one"], everything[name]
    assert_same(one.state, other.state, one.losses, other.losses)


@pytest.mark.parametrize("name", ["eight", "micro"])
def test_neither_a_teacher_nor_micro_batches_add_an_exchange(everything, name):
    assert exchanged(everything[name].text) == everything[name].numbers + 1


def test_micro_batches_exchange_their_sum_once(everything):
    """Outside of the loop over micro-batches, whose body is a computation of its own."""
    text = everything["micro"].text
    entry = text[text.index("ENTRY") :]
    assert sum(bool(all_reduced(line)) for line in entry.splitlines()) == sum(
        bool(all_reduced(line)) for line in text.splitlines()
    )
    assert " while(" in entry
