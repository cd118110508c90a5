"""The training step: equal on one device and on eight, and its communication."""

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


def make_batch(rows, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (rows, 24, 24, 3), np.uint8)
    return {"image": image, "label": rng.integers(0, 7, rows).astype(np.int32)}


SGD = optax.sgd(0.1)


@cache
def initial_state(model, tx):
    """Return the initial state on the host, so that every mesh gets a copy that the step may donate."""
    return jax.tree.map(np.asarray, jax.jit(make_init(model, tx, 0))())


def compile_step(objective, mesh, batch_size, teacher_variables=None, tx=SGD, accumulate=1):
    """Return the initial state, the teacher's variables, and the compiled step."""
    host_state = initial_state(objective.model, tx)
    state = jax.device_put(host_state, sharding.shardings(host_state, mesh, objective.model.PARAMETERS))
    teacher_variables = sharding.place_replicated(teacher_variables or {}, mesh)
    step = make_train_step(objective, tx, mesh, seed=0, ema_decay=0.9, accumulate=accumulate)
    return (
        state,
        teacher_variables,
        step.lower(state, teacher_variables, sharding.place(make_batch(batch_size), mesh)).compile(),
    )


def advance(state, teacher_variables, step, mesh, count, batch_size=8):
    """Take `count` steps and return the state and the losses."""
    losses = []
    for index in range(count):
        state, metrics = step(state, teacher_variables, sharding.place(make_batch(batch_size, index), mesh))
        losses.append(float(metrics["loss"]))
        np.testing.assert_allclose(np.mean(metrics["row_loss"]), losses[-1], rtol=1e-5)
    return state, losses


def make_objective(model, **settings):
    return Objective(model, PREPROCESSING, **{"label_smoothing": 0.1, **settings})


def assert_close(expected, actual, expected_losses, actual_losses):
    np.testing.assert_allclose(actual_losses, expected_losses, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(expected.variables), jax.tree.leaves(actual.variables), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-6)


def all_reduce_size(text):
    """Return how many numbers a compiled program reduces over devices."""
    return sum(int(np.prod(shape)) for line in text.splitlines() for shape in all_reduce_shapes(line))


def all_reduce_shapes(line):
    """Return the shapes of the arrays that a line of a compiled program reduces over devices."""
    match = re.search(r"= (.*?) all-reduce(-start)?\(", line)
    return [
        tuple(int(side) for side in shape.split(",") if side)
        for shape in re.findall(r"\w+\[([\d,]*)\]", match.group(1) if match else "")
    ]


def test_eight_devices_equal_one_and_reduce_only_the_gradient():
    objective = make_objective(small(tc.TCViT(), 8, depth=2, drop_path_rate=0.2))
    one, losses_one = advance(*compile_step(objective, ONE, 8), ONE, 3)
    state, teacher_variables, step = compile_step(objective, EIGHT, 8)
    text, parameters = step.as_text(), sum(leaf.size for leaf in jax.tree.leaves(state.variables))
    eight, losses_eight = advance(state, teacher_variables, step, EIGHT, 3)
    assert_close(one, eight, losses_one, losses_eight)
    # Every gradient once and the mean loss, but no activations.
    assert all_reduce_size(text) == parameters + 1
    assert not [name for name in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter") if name in text]


def test_loss_decreases_on_one_batch():
    model, tx = small(tc.TCViT(), 8, depth=2), optax.adam(3e-3)
    state = jax.jit(make_init(model, tx, 0))()
    step = make_train_step(make_objective(model, label_smoothing=0.0), tx, ONE, seed=0, ema_decay=0.9)
    batch, losses = sharding.place(make_batch(8), ONE), []
    for _ in range(25):
        state, metrics = step(state, {}, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.step) == 25


def test_batch_statistics_equal_on_eight_devices_and_averages_start_with_small_decay():
    _, sizes, _, _ = cases.case("lvvit")
    sizes = {**sizes, "depth": 1, "img_size": 64, "stem_channels": 8, "num_classes": 7}
    model, tx = tc.create_model("lvvit_s", tc.TCViT(), 5, **sizes), optax.adamw(1e-3)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 64, 64, 3), np.uint8), "label": (np.arange(8) % 7).astype(np.int32)}
    batch_stats = {}
    for mesh in (ONE, EIGHT):
        before = jax.device_put(initial_state(model, tx), sharding.replicated(mesh))
        step = make_train_step(make_objective(model, label_smoothing=0.0), tx, mesh, seed=0, ema_decay=0.9)
        after, metrics = step(before, {}, sharding.place(batch, mesh))
        assert np.isfinite(float(metrics["loss"]))
        batch_stats[mesh.size] = after.variables["batch_stats"]
    assert set(after.variables) == set(after.ema) == {"params", "batch_stats"}
    for path in (("batch_stats", "patch_embed", "bn3", "var"), ("params", "head", "bias")):
        trees = (initial_state(model, tx).variables, after.variables, after.ema)
        old, new, average = (np.asarray(reduce(getitem, path, tree)) for tree in trees)
        assert np.abs(new - old).min() > 1e-4
        # The first decay is min(0.9, 1 / 10).
        np.testing.assert_allclose(average, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-7)
    # The statistics are those of the global batch on any number of devices.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), batch_stats[1], batch_stats[8])
    # The optimizer has moments for parameters only.
    assert jax.tree.structure(after.opt_state[0].mu) == jax.tree.structure(after.variables["params"])


FSDP = sharding.make_mesh(2, 4)


def collectives(text):
    """Return the kind and the output shape per device of every collective of a compiled program."""
    matches = re.findall(
        r"= (\S+|\(.*?\)) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text
    )
    return [
        (kind, tuple(int(side) for side in shape.split(",") if side))
        for shapes, kind in matches
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]


def test_sharded_parameters_are_all_gathered_and_gradients_reduce_scattered():
    # Not Adam: it turns the gradient of the keys' biases, a rounding error, into full-size updates.
    objective, tx = make_objective(small(depth=2, drop_path_rate=0.2)), optax.sgd(0.1, momentum=0.9)
    one, losses_one = advance(*compile_step(objective, ONE, 8, tx=tx), ONE, 3)
    state, teacher_variables, step = compile_step(objective, FSDP, 8, tx=tx)
    sharded = {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state.variables["params"])
        if not leaf.sharding.is_fully_replicated
    }  # fmt: skip
    assert {path.split("'")[-2] for path in sharded} == {"kernel", "pos_embed"}
    # Every device has a quarter of each parameter, and of its moments and averages.
    shard_shapes = sorted(tuple(leaf.addressable_shards[0].data.shape) for leaf in sharded.values())
    full_shapes = sorted(tuple(leaf.shape) for leaf in sharded.values())
    assert [np.prod(shape) * 4 for shape in shard_shapes] == [np.prod(shape) for shape in full_shapes]
    for tree in (state.ema["params"], state.opt_state[0].trace):
        shardings = jax.tree.map(lambda leaf: leaf.sharding, tree)
        assert shardings == jax.tree.map(lambda leaf: leaf.sharding, state.variables["params"])
    operations = collectives(step.as_text())
    assert {kind for kind, _ in operations} == {"all-gather", "reduce-scatter", "all-reduce"}
    assert sorted(shape for kind, shape in operations if kind == "all-gather") == full_shapes
    assert sorted(shape for kind, shape in operations if kind == "reduce-scatter") == shard_shapes
    # All-reduces over `data`: gradient shards. Over both axes: gradients of replicated parameters, loss and norm.
    replicated_shapes = [
        leaf.shape for leaf in jax.tree.leaves(state.variables["params"]) if leaf.sharding.is_fully_replicated
    ]
    size = sum(int(np.prod(shape)) for kind, shape in operations if kind == "all-reduce")
    scalars = size - sum(int(np.prod(shape)) for shape in (*shard_shapes, *replicated_shapes))
    assert 2 <= scalars <= 1 + len(sharded)
    after, losses = advance(state, teacher_variables, step, FSDP, 3)
    assert_close(one, after, losses_one, losses)


class TrainingResult(NamedTuple):
    """The result of two steps, the number of variables, and the compiled program of a step."""

    size: int
    text: str
    state: TrainState
    losses: list[float]


@pytest.fixture(scope="module")
def training_results():
    """Training with all random augmentations and a teacher: on one device, on eight, and on eight with micro-batches."""
    model, teacher = small(tc.GTP(), 8, depth=2, drop_path_rate=0.2, proj_drop_rate=0.1), small(depth=1, embed_dim=48)
    objective = make_objective(
        model, mixing=Mixing(0.8, 1.0), erasing=0.5, mix_token=True, teacher=Teacher(teacher, PREPROCESSING)
    )
    teacher_variables = initial_state(teacher, SGD).variables
    results = {}
    for name, mesh, accumulate in (("one", ONE, 1), ("eight", EIGHT, 1), ("micro", EIGHT, 2)):
        state, placed_teacher_variables, step = compile_step(
            objective, mesh, 32, teacher_variables=teacher_variables, accumulate=accumulate
        )
        size = sum(leaf.size for leaf in jax.tree.leaves(state.variables))
        results[name] = TrainingResult(
            size, step.as_text(), *advance(state, placed_teacher_variables, step, mesh, 2, 32)
        )
    return results


@pytest.mark.parametrize("name", ["eight", "micro"])
def test_random_numbers_do_not_depend_on_devices_or_micro_batches(training_results, name):
    expected, actual = training_results["one"], training_results[name]
    assert_close(expected.state, actual.state, expected.losses, actual.losses)


@pytest.mark.parametrize("name", ["eight", "micro"])
def test_teacher_and_micro_batches_add_no_communication(training_results, name):
    assert all_reduce_size(training_results[name].text) == training_results[name].size + 1


def test_micro_batches_are_reduced_once_after_the_loop(training_results):
    """The body of the loop over micro-batches is a separate computation of the program."""
    text = training_results["micro"].text
    entry = text[text.index("ENTRY") :]
    assert sum(bool(all_reduce_shapes(line)) for line in entry.splitlines()) == sum(
        bool(all_reduce_shapes(line)) for line in text.splitlines()
    )
    assert " while(" in entry
