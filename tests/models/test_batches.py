"""Batches of any size: exported programs with a symbolic batch, and empty batches."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.evaluation import compute_logits
from tcvit_jax.ops.images import normalize
from tcvit_jax.reducers.cross import FUSIONS
from tests.models.builders import images_of, small, variables_of
from tests.switches import METHODS

LVVIT = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3, "stem_channels": 8, "num_classes": 7}
CASES = {
    **{param.id: small(*param.values, 8, depth=2) for param in METHODS},
    **{f"fuse={fuse}": small(tc.Cross(score="received", fuse=fuse), 8, depth=2) for fuse in FUSIONS},
    "dense": small(depth=2),
    "distilled": small(tc.GTP(), 8, depth=2, distilled=True, no_embed_class=True, reg_tokens=2, pre_norm=True),
    "pooled": small(tc.ToMe(), 8, depth=2, class_token=False, global_pool="avg", qk_norm=True, init_values=0.1),
    "padded": small(tc.ATS(), 8, depth=2, global_pool="avg", dtype="bfloat16"),
    "lvvit": tc.create_model("lvvit_s", tc.TCViT(fuse="soft"), 5, **LVVIT),
}
METHODS_AND_MODELS = [name for name in CASES if not name.startswith("fuse=")]
# The exported programs of these are compiled and called; the others are exported only.
CALLED = ("tome", "lvvit")


def all_of(model):
    """Return everything that users call on a model, as one function of variables and images."""

    def call(variables, images):
        heads, tokens = model.apply(variables, images, patches=True, method="outputs")
        # The state of a reducer may be the same for all images.
        return {
            "logits": model.apply(variables, images),
            "trace": model.apply(variables, images, trace=True),
            "features": model.apply(variables, images, trace=True, restore=True, method="features"),
            "outputs": (heads, replace(tokens, state=None)),
        }

    return call


def images_shape(model, batch):
    return jax.ShapeDtypeStruct((batch, *model.img_size, model.in_chans), jnp.float32)


def symbolic_batch():
    (batch,) = export.symbolic_shape("b")
    return batch


def slow_except(names):
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", slow_except(METHODS_AND_MODELS))
def test_every_result_has_a_symbolic_batch(name):
    model, batch = CASES[name], symbolic_batch()
    results = jax.eval_shape(all_of(model), models.variable_shapes(model), images_shape(model, batch))
    assert {str(leaf.shape[0]) for leaf in jax.tree.leaves(results)} == {"b"}


@pytest.mark.parametrize("name", slow_except(["tome", "tofu", "mctf"]))
def test_exported_program_equals_the_model_at_any_batch_size(name):
    model = CASES[name]
    exported = export.export(jax.jit(model.apply))(models.variable_shapes(model), images_shape(model, symbolic_batch()))
    assert str(exported.out_avals[0].shape) == "(b, 7)"
    if name in CALLED:
        check_calls(model, exported)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in CALLED])
def test_every_exported_program_equals_the_model(name):
    model = CASES[name]
    check_calls(
        model,
        export.export(jax.jit(model.apply))(models.variable_shapes(model), images_shape(model, symbolic_batch())),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_method_is_exported_for_tpus(name):
    model = CASES[name]
    exported = export.export(jax.jit(all_of(model)), platforms=["tpu"])(
        models.variable_shapes(model), images_shape(model, symbolic_batch())
    )
    assert {str(leaf.shape[0]) for leaf in exported.out_avals} == {"b"}


def check_calls(model, exported):
    variables = variables_of(model)
    images = images_of(3) if model.img_size == (24, 24) else jnp.tile(images_of(3), (1, 3, 3, 1))[:, :64, :64]
    expected = jax.jit(model.apply)(variables, images)
    atol = 0.05 if model.dtype == "bfloat16" else 2e-5
    for batch in (1, 3):
        logits = exported.call(variables, images[:batch])
        assert logits.shape == (batch, 7)
        np.testing.assert_allclose(logits, expected[:batch], rtol=0, atol=atol)


@pytest.mark.parametrize("name", slow_except(METHODS_AND_MODELS))
def test_empty_batch_has_results_without_rows(name):
    model = CASES[name]
    results = jax.eval_shape(all_of(model), models.variable_shapes(model), images_shape(model, 0))
    assert results["logits"].shape == (0, 7)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(results)} == {0}


@pytest.mark.parametrize("name", slow_except(["tome"]))
def test_empty_batch_is_computed(name):
    model = CASES[name]
    images = jnp.zeros((0, *model.img_size, model.in_chans))
    logits = jax.jit(model.apply)(variables_of(model), images)
    assert logits.shape == (0, 7)
    assert logits.dtype == jnp.float32


def test_empty_batch_of_integer_images_is_normalized():
    model, preprocessing = small(depth=2), models.preprocessing("deit_tiny_patch16_224")
    images = np.zeros((0, 24, 24, 3), np.uint8)
    assert normalize(images, preprocessing.mean, preprocessing.std).shape == images.shape
    batch = {"image": jnp.asarray(images)}
    assert compute_logits(model, preprocessing, variables_of(model), batch).shape == (0, 7)
