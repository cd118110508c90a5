"""Parity of the families of timm and transformers with their own code, on deterministic weights."""

from operator import itemgetter
from pathlib import Path

import jax
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.convert.transformers import read_config
from tests import golden

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
