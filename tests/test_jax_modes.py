"""Models, training and evaluation under JAX's modes: 64 bits, explicit rank promotion, strict dtype promotion.

Dtypes and ranks are known when a function is traced, so most tests compile nothing.
"""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tcvit_jax.config import Optimizer
from tcvit_jax.evaluation import make_eval_step, make_rank_step
from tcvit_jax.models.layers import Dropout, DropPath
from tcvit_jax.ops.rows import Rows
from tcvit_jax.reducers.scores import random_order
from tcvit_jax.tokens import Tokens
from tcvit_jax.training.mixing import Mixing, random_erasing
from tcvit_jax.training.objective import Objective, Teacher, draw_mix_mask
from tcvit_jax.training.optimizer import adamw, learning_rate
from tcvit_jax.training.step import make_init, make_train_step
from tests.models.builders import images_of, small, variables_of
from tests.switches import SWITCHES

MODES = {
    "x64": partial(jax.enable_x64, True),
    "rank": partial(jax.numpy_rank_promotion, "raise"),
    "dtype": partial(jax.numpy_dtype_promotion, "strict"),
}
RATES = {"drop_rate": 0.1, "pos_drop_rate": 0.1, "proj_drop_rate": 0.1, "drop_path_rate": 0.1}
LVVIT = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3, "stem_channels": 8, "num_classes": 7}
OTHER_MODELS = {
    "dense": small(act_layer="quick_gelu"),
    "distilled": small(tc.GTP(), 8, distilled=True, no_embed_class=True, reg_tokens=2, pre_norm=True),
    "pooled": small(tc.ToMe(), 8, class_token=False, global_pool="avg", qkv_bias=False, qk_norm=True, init_values=0.1),
    "lvvit": tc.create_model("lvvit_s", tc.ATS(), 5, **LVVIT),
}


@contextlib.contextmanager
def modes_of(names):
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(MODES[name]())
        yield


def assert_32_bits(tree):
    """Every leaf is of the dtypes of the ordinary mode: nothing has 64 bits."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    assert leaves
    wide = {jax.tree_util.keystr(path): str(leaf.dtype) for path, leaf in leaves if leaf.dtype.itemsize == 8}
    assert {name: dtype for name, dtype in wide.items() if "key" not in dtype} == {}


def trace(model):
    """Trace everything that users call on a model; return the shapes and dtypes of all results."""
    images = np.zeros((2, *model.img_size, model.in_chans), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def loss(variables, images):
        rngs = {"dropout": jax.random.key(1)}
        logits, statistics = model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])
        return logits.sum(), statistics

    return {
        "init": variables,
        "gradient": jax.eval_shape(jax.value_and_grad(loss, has_aux=True), variables, images),
        "logits": jax.eval_shape(model.apply, variables, images),
        "features": jax.eval_shape(
            partial(model.apply, trace=True, restore=True, method="features"), variables, images
        ),
        "outputs": jax.eval_shape(partial(model.apply, patches=True, method="outputs"), variables, images),
    }


@pytest.mark.parametrize("reducer", SWITCHES)
def test_every_reducer_under_all_modes_at_once(reducer):
    with modes_of(MODES):
        assert_32_bits(trace(small(reducer, 8, depth=2, **RATES)))


@pytest.mark.parametrize("mode", MODES)
def test_shapes_and_dtypes_are_the_same_under_each_mode(mode):
    model = small(tc.TCViT(fuse="topm", dominance="cls_walk"), 8, depth=2)
    expected = trace(model)
    with modes_of([mode]):
        assert trace(model) == expected
    assert_32_bits(expected)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize("name", OTHER_MODELS)
def test_other_models_under_all_modes_at_once(name, dtype):
    with modes_of(MODES):
        assert_32_bits(trace(OTHER_MODELS[name].clone(dtype=dtype)))


def test_logits_are_the_same_bits_under_all_modes():
    model = small(tc.TCViT(fuse="soft", dominance="cls_walk", walk="lazy"), 8, depth=2)
    variables, images = variables_of(model), images_of(2)
    expected = jax.jit(model.apply)(variables, images)
    with modes_of(MODES):
        logits = jax.jit(model.apply)(variables, images)
        assert logits.dtype == jnp.float32
        np.testing.assert_array_equal(logits, expected)


def draws():
    """Return what random numbers decide: dropout, orders, mixing, erasing."""
    key, images = jax.random.key(3), jnp.ones((4, 8, 8, 3), jnp.float32)
    x = jnp.ones((4, 5, 6), jnp.float32)
    return {
        "drop path": DropPath(0.5).apply({}, x, True, rngs={"dropout": key}),
        "dropout": Dropout(0.5).apply({}, x, True, rngs={"dropout": key}),
        "order": random_order(Tokens.start(x, 1), 7),
        "mix": Mixing(0.8, 1.0).draw(key, (8, 8)),
        "erased": random_erasing(key, images, 0.9),
        "mask": draw_mix_mask(key, (4, 4)),
        "rows": Rows.resolve(None, 4).bernoulli(key, 0.5),
    }


@pytest.mark.slow
def test_random_numbers_and_initial_variables_are_the_same_bits_under_all_modes():
    def compute():
        model = small(depth=1, init_values=0.1, reg_tokens=1)
        images = jnp.zeros((1, 24, 24, 3), jnp.float32)
        return jax.jit(lambda: (draws(), model.init(jax.random.key(0), images)))()

    expected = compute()
    with modes_of(MODES):
        actual = compute()
        assert_32_bits(actual)
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def traced_training(model, teacher_model, **settings):
    """Trace the initial state, a training step with every loss and the evaluation steps."""
    preprocessing = models.preprocessing("deit_tiny_patch16_224")
    other = models.preprocessing("vit_tiny_patch16_224")
    assert other.mean != preprocessing.mean
    teacher = Teacher(teacher_model, other, tokens=0.5, temperature=2.0, kind=settings.pop("kind", "soft"))
    objective = Objective(
        model, preprocessing, label_smoothing=0.1, mixing=Mixing(0.8, 1.0), erasing=0.5, teacher=teacher, **settings
    )
    optimizer = Optimizer(warmup_epochs=2, clip_norm=1.0, layer_decay=0.9, lr_batch_size=16)
    tx = adamw(optimizer, learning_rate(optimizer, 100, 10, 8), model.PARAMETERS, model.depth)
    mesh = sharding.data_mesh()
    images = np.zeros((16, *model.img_size, 3), np.uint8)
    batch = {"image": images, "label": np.zeros(16, np.int32)}
    teacher_variables = jax.eval_shape(teacher_model.init, jax.random.key(0), images[:1].astype(np.float32))
    state = jax.eval_shape(make_init(model, tx, 0))
    step = make_train_step(objective, tx, mesh, seed=0, ema_decay=0.9, accumulate=1)
    masked = batch | {"mask": np.ones(16, np.int32)}
    new_state, metrics = jax.eval_shape(step, state, teacher_variables, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new_state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    return (
        state,
        metrics,
        jax.eval_shape(make_eval_step(model, preprocessing, mesh), state.variables, masked),
        jax.eval_shape(make_rank_step(model, preprocessing, mesh), state.variables, masked),
    )


@pytest.mark.parametrize(
    "modes",
    [*(pytest.param([mode], marks=pytest.mark.slow) for mode in MODES), list(MODES)],
    ids=[*MODES, "all"],
)
def test_training_and_evaluation_steps_under_each_mode(modes):
    with modes_of(modes):
        assert_32_bits(traced_training(small(tc.TCViT(), 8, depth=2), small(depth=2)))


@pytest.mark.slow
def test_training_of_other_models_under_all_modes_at_once():
    lvvit = tc.create_model("lvvit_s", tc.TCViT(fuse="soft"), 5, **LVVIT)
    with modes_of(MODES):
        assert_32_bits(traced_training(lvvit, lvvit, mix_token=True, token_labels=0.5))
        assert_32_bits(traced_training(small(tc.GTP(), 8, depth=2, distilled=True), small(depth=2), kind="hard"))
