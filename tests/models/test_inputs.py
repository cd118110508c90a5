"""What users pass to a model: images of other dtypes, layouts and types, and variables of other models."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tests.models.builders import images_of, small, variables_of

EXPECTED = "images: expected float [B, 24, 24, 3] for deit_tiny_patch16_224, got "
NORMALIZE = "; normalize them: use tc.preprocess(images, meta)"
PREPROCESS = "; use tc.preprocess(images, meta)"


class Tensor:
    """A tensor of another library."""

    shape, dtype = (2, 24, 24, 3), "float32"


WRONG_IMAGES = {
    **{
        dtype: (np.zeros((2, 24, 24, 3), dtype), f"{dtype} (2, 24, 24, 3){NORMALIZE}")
        for dtype in ("uint8", "int8", "int32", "uint16", "bool", "complex64")
    },
    "JAX uint8": (jnp.zeros((2, 24, 24, 3), jnp.uint8), f"uint8 (2, 24, 24, 3){NORMALIZE}"),
    "uint8 without batch": (np.zeros((24, 24, 3), np.uint8), f"uint8 (24, 24, 3){NORMALIZE}"),
    "other size": (np.zeros((2, 24, 20, 3), np.float32), "float32 (2, 24, 20, 3)"),
    "other channels": (np.zeros((2, 24, 24, 1), np.float32), "float32 (2, 24, 24, 1)"),
    "no batch": (np.zeros((24, 24, 3), np.float32), "float32 (24, 24, 3); add the batch axis: images[None]"),
    "NCHW": (np.zeros((2, 3, 24, 24), np.float32), "float32 (2, 3, 24, 24); use images.transpose(0, 2, 3, 1)"),
    "CHW": (np.zeros((3, 24, 24), np.float32), "float32 (3, 24, 24); use images.transpose(1, 2, 0)[None]"),
    "list": ([[0.0]], f"a list{PREPROCESS}"),
    "None": (None, f"None{PREPROCESS}"),
    "number": (0.5, f"a float{PREPROCESS}"),
    "path": ("photo.jpg", f"a str{PREPROCESS}"),
    "tensor": (Tensor(), f"a tests.Tensor{PREPROCESS}"),
}


@cache
def model_and_variables():
    model = small(tc.GTP(), 4, depth=2)
    return model, variables_of(model)


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_images_that_are_no_normalized_batch_are_one_line_errors(name):
    model, variables = model_and_variables()
    images, problem = WRONG_IMAGES[name]
    calls = {
        "apply": lambda: model.apply(variables, images),
        "condensed": lambda: tc.condense(model, tc.ToMe(), 4).apply(variables, images),
        "init": lambda: model.init(jax.random.key(0), images),
        "features": lambda: model.apply(variables, images, method="features"),
        "blocks": lambda: model.apply(variables, images, blocks=(0,), method="features"),
        "outputs": lambda: model.apply(variables, images, method="outputs"),
        "diagnose": lambda: tc.diagnose(model, variables, images),
        "reductions": lambda: tc.measure.reductions(model, variables, images),
    }
    for call_name, call in calls.items():
        with pytest.raises(tc.InputError) as error:
            call()
        assert str(error.value) == EXPECTED + problem, call_name


@pytest.mark.parametrize("dtype", ["uint8", "bool"])
def test_integer_images_are_errors_under_jit(dtype):
    model, variables = model_and_variables()
    with pytest.raises(tc.InputError) as error:
        jax.jit(model.apply)(variables, np.zeros((2, 24, 24, 3), dtype))
    assert str(error.value) == EXPECTED + f"{dtype} (2, 24, 24, 3){NORMALIZE}"
    with pytest.raises(tc.InputError, match="got None"):
        jax.jit(model.apply)(variables, None)


def test_lvvit_rejects_integer_images():
    model = tc.create_model("lvvit_s", img_size=32, embed_dim=24, depth=1, num_heads=3)
    shape = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    with pytest.raises(tc.InputError, match=r"expected float \[B, 32, 32, 3\] for lvvit_s, got uint8"):
        jax.eval_shape(model.init, jax.random.key(0), shape)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_float_images_of_any_precision_are_accepted(dtype):
    model, variables = model_and_variables()
    images = images_of(2).astype(jnp.dtype(dtype))
    assert jax.eval_shape(partial(model.apply, images=images), variables).shape == (2, 7)


def changed(variables, path, value):
    """Return variables with another leaf at `path`, or without it if `value` is None."""
    first, _, rest = path.partition(".")
    copy = dict(variables)
    if rest:
        copy[first] = changed(copy.get(first, {}), rest, value)
    elif value is None:
        del copy[first]
    else:
        copy[first] = value
    return copy


PREFIX = "variables of deit_tiny_patch16_224: "
SCALE = "params.blocks_1.norm2.scale"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: changed(v, SCALE, None), f"{SCALE}: not found"),
        (lambda v: changed(v, "params.prompt", np.zeros(3)), "params.prompt: unexpected"),
        (lambda v: changed(v, "batch_stats.mean", np.zeros(3)), "batch_stats.mean: unexpected"),
        (lambda v: changed(v, SCALE, np.ones(25)), f"{SCALE}: expected float (24,), got float64 (25,)"),
        (lambda v: changed(v, SCALE, np.ones((1, 24), "f4")), f"{SCALE}: expected float (24,), got float32 (1, 24)"),
        (lambda v: changed(v, SCALE, np.ones(24, np.int8)), f"{SCALE}: expected float (24,), got int8 (24,)"),
        (lambda v: changed(v, SCALE, jnp.ones(24, bool)), f"{SCALE}: expected float (24,), got bool (24,)"),
        (lambda v: changed(v, SCALE, [1.0] * 24), f"{SCALE}: expected float (24,), got a list"),
        (lambda v: changed(v, SCALE, Tensor()), f"{SCALE}: expected float (24,), got a tests.Tensor"),
        (lambda v: changed(v, "params.blocks_2", v["params"]["blocks_1"]), "expected 2 blocks, got 3; set depth=3"),
        (lambda v: changed(v, "params.blocks_1", None), "expected 2 blocks, got 1; set depth=1"),
        (lambda v: v["params"], "params: not found; pass the variables {'params': ...}"),
        (lambda v: {"params": None}, "params: expected a mapping, got None; pass the variables {'params': ...}"),
        (lambda v: None, "expected a mapping with 'params', got None"),
        (lambda v: [v], "expected a mapping with 'params', got a list"),
    ],
)
def test_variables_of_another_model_are_one_line_errors(change, message):
    model, variables = model_and_variables()
    with pytest.raises(tc.InputError) as error:
        tc.check_variables(model, change(variables))
    assert str(error.value) == PREFIX + message


@pytest.mark.parametrize("overrides", [{"embed_dim": 48}, {"img_size": 32}, {"num_classes": 8}, {"distilled": True}])
def test_variables_of_every_other_size_are_errors(overrides):
    with pytest.raises(tc.InputError, match="^variables of deit_tiny_patch16_224: params"):
        tc.check_variables(small(depth=2, **overrides), model_and_variables()[1])


def test_variables_of_the_model_are_accepted_in_every_form():
    model, variables = model_and_variables()
    tc.check_variables(model, variables)
    tc.check_variables(model, jax.tree.map(np.asarray, variables))
    tc.check_variables(model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables))
    tc.check_variables(replace(model, reducer=None, removed=()), models.variable_shapes(model))
    jax.eval_shape(partial(tc.check_variables, model), variables)
    lvvit = tc.create_model("lvvit_s", img_size=32, embed_dim=24, depth=1, num_heads=3)
    shapes = models.variable_shapes(lvvit)
    tc.check_variables(lvvit, shapes)
    with pytest.raises(tc.InputError, match=r"batch_stats.patch_embed.bn1.mean: not found"):
        tc.check_variables(lvvit, {"params": shapes["params"]})


def test_a_model_does_not_run_with_variables_of_a_deeper_one():
    model, deeper = model_and_variables()[0], small(depth=3)
    for run in (model.apply, jax.jit(model.apply), partial(model.apply, method="features")):
        with pytest.raises(tc.InputError) as error:
            run(variables_of(deeper), images_of(2))
        assert str(error.value) == PREFIX + "expected 2 blocks, got 3; set depth=3"


@pytest.mark.parametrize("value", [None, "deit_tiny_patch16_224", {"params": {}}, 3], ids=repr)
def test_values_that_are_no_model_are_one_line_errors(value):
    calls = (
        partial(tc.condense, value), partial(tc.describe, value), partial(tc.measure.oracle, value),
        partial(tc.check_variables, value, {}), partial(tc.diagnose, value, {}, np.zeros((1, 24, 24, 3))),
        partial(tc.convert.from_torch, {}, value), partial(tc.convert.to_torch, {}, value),
        partial(models.variable_shapes, value), partial(models.count_parameters, value), partial(models.to_config, value),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(tc.InputError, match=r"^model: expected a model of tc.create_model, got (None|an? \w+)$"):
            call()


@pytest.mark.parametrize("name", [None, 3, ["deit_tiny_patch16_224"]], ids=repr)
def test_a_model_name_that_is_no_text_is_a_one_line_error(name):
    with pytest.raises(tc.InputError) as error:
        tc.create_model(name)
    assert str(error.value) == f"model={name!r}: must be a name of tc.list_models()"
