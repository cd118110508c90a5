"""Parity of the families of timm and transformers with their own code, on deterministic weights."""

from operator import itemgetter
from pathlib import Path

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.convert.transformers import read_config
from tests import golden
from tests.models.builders import SMALL, images_of, run, run_traced, variables_of
from tests.models.test_vit import check_trace
from tests.switches import METHODS

FAMILIES, ARRAYS = golden.read("families")
SIZE = 64


def build(case):
    """Return the model of a case without its weights, and what reading the config says of the weights."""
    if case["library"].startswith("timm"):
        return tc.create_model(case["model"], **case["overrides"]), {}
    shapes = {name: tuple(shape) for name, shape in case["shapes"].items()}
    description = read_config(case["config"], Path("config.json"), shapes)
    return tc.create_model("vit", **description.overrides), {"ignored": description.ignored}


@pytest.mark.parametrize("case", FAMILIES["cases"], ids=itemgetter("key"))
def test_model_equals_the_original_code(case):
    model, options = build(case)
    conversion = tc.convert.convert(golden.state_dict(case["shapes"], case["seed"]), model, **options)
    images = golden.images(case["batch"], (SIZE, SIZE), case["seed"])
    both = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    pooled, tokens = both(conversion.variables, images)
    if case["key"] == "hf/clip":
        # transformers returns the tokens of CLIP before the final norm.
        (tokens,) = jax.jit(lambda v, x: model.apply(v, x, method="features", blocks=1))(conversion.variables, images)
    for name, value in (("tokens", tokens), ("pooled", pooled), ("logits", pooled)):
        if f"{case['key']}/{name}" in ARRAYS:
            np.testing.assert_allclose(value, ARRAYS[f"{case['key']}/{name}"], rtol=0, atol=2e-5)


# One model with each kind of position, MLP, head and normalization that the families add.
NAMES = (
    "vit_small_plus_patch16_dinov3_qkvb", "eva02_base_patch14_448", "vit_base_patch16_siglip_224",
    "vit_base_patch16_siglip_gap_224", "vit_giant_patch14_reg4_dinov2",
)  # fmt: skip
REDUCTIONS = [
    pytest.param(name, *method.values, id=f"{name}-{method.id}", marks=pytest.mark.slow)
    for name in NAMES
    for method in METHODS
    if tc.create_model(name, **SMALL).class_token or not method.values[0].needs_class_token
]


@pytest.mark.parametrize(("name", "reducer"), REDUCTIONS)
def test_reduction_of_every_family(name, reducer):
    """Traces are valid, images are independent of their batch, and removing nothing is the dense model."""
    model = tc.create_model(name, reducer, tc.schedule.at_most((9, 4)), **{**SMALL, "depth": 2})
    images = images_of(3)
    variables = variables_of(model)
    logits, trace = jax.tree.map(np.asarray, run_traced(model, variables, images))
    check_trace(reducer, trace, model.removed)
    assert np.isfinite(logits).all()
    others = images_of(3, 1)
    new_logits, _ = run_traced(model, variables, np.stack([others[0], images[1], others[2]]))
    np.testing.assert_array_equal(new_logits[1], logits[1])
    np.testing.assert_allclose(run(model, variables, images[:1])[0], logits[0], rtol=0, atol=5e-6)
    dense = tc.condense(model)
    program = str(jax.make_jaxpr(dense.apply)(variables, images))
    assert str(jax.make_jaxpr(tc.condense(model, reducer, 0).apply)(variables, images)) == program


def test_methods_that_read_the_class_token_require_one():
    with pytest.raises(tc.InputError, match=r"^reducer=EViT\(.*\) requires class_token=True"):
        tc.create_model("vit_base_patch16_siglip_224", tc.EViT(), 8)
