"""Exchangeable parts of a model: embedding, trunk and head."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models
from tcvit_jax.errors import out_of_range
from tcvit_jax.models import zoo, zoo_entries
from tcvit_jax.models.parts import Embedding, Head, HeadOutputs
from tests.models.builders import SMALL, images_of, small, variables_of


class MeanHead(nn.Module):
    """A linear layer on the mean of all tokens, without a norm."""

    num_classes: int
    embed_dim: int
    temperature: float

    reads_prefix_only = False
    has_patch_logits = False

    def macs(self, patches):
        return self.embed_dim * self.num_classes

    def check(self):
        if not self.temperature > 0:
            raise out_of_range("temperature", self.temperature, "> 0")

    def setup(self):
        self.mean_head = nn.Dense(self.num_classes)

    def normalize(self, tokens):
        return tokens

    def __call__(self, tokens, train, rows=None):
        logits = self.mean_head(tokens.x.mean(1)) / self.temperature
        return HeadOutputs(logits, logits, logits)


class MeanViT(models.ViT):
    """A ViT with another head and its field."""

    temperature: float = 2.0

    HEAD_CLASS: ClassVar[type[Head]] = MeanHead


@pytest.fixture
def name(monkeypatch):
    entry = zoo.ZooEntry(0, {}, zoo_entries.IMAGENET, MeanViT)
    monkeypatch.setitem(zoo.ZOO, "mean_vit", entry)
    return "mean_vit"


def test_custom_head_requires_only_module_and_zoo_entry(name):
    model = tc.create_model(name, tc.GTP(), [4, 4], **{**SMALL, "depth": 2}, temperature=0.5)
    variables, images = variables_of(model), images_of(2)
    backbone = set(models.parameter_shapes(small(depth=2))) - {"head", "norm"}
    assert set(variables["params"]) == backbone | {"mean_head"}
    both = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    logits, tokens = both(variables, images)
    head = variables["params"]["mean_head"]
    np.testing.assert_allclose(logits, (tokens.mean(1) @ head["kernel"] + head["bias"]) / 0.5, rtol=0, atol=1e-5)
    assert (model.reads_prefix_only, model.has_patch_logits) == (False, False)
    assert (model.cost().head, model.cost().skipped) == (24 * 7, 0)
    assert models.from_config(models.to_config(model)) == model


def test_head_checks_its_fields(name):
    with pytest.raises(tc.InputError, match="temperature=0: must be > 0"):
        tc.create_model(name, temperature=0)


@pytest.mark.parametrize(
    "model", [small(), tc.create_model("lvvit_t"), MeanViT("mean_vit")], ids=lambda m: type(m).__name__
)
def test_parts_implement_protocols_and_match_model(model):
    embedding, trunk, head = model.parts
    assert isinstance(embedding, Embedding)
    assert isinstance(head, Head)
    assert (embedding.grid, embedding.prefix, trunk.depth) == (model.grid, model.prefix, model.depth)


def test_parts_share_scope_of_model():
    """Parameters have the same names and initial values as in a single module."""
    model = small(depth=1)
    params = model.init(jax.random.key(3), jnp.zeros((1, 24, 24, 3)))["params"]
    assert set(params) == {"patch_embed", "cls_token", "pos_embed", "blocks_0", "norm", "head"}

    class Flat(nn.Module):
        @nn.compact
        def __call__(self):
            self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, 24))
            self.param("pos_embed", nn.initializers.normal(0.02), (1, 37, 24))
            nn.Conv(24, (4, 4), strides=(4, 4), name="patch_embed")(jnp.zeros((1, 24, 24, 3)))

    flat = Flat().init(jax.random.key(3))["params"]
    for path in ("cls_token", "pos_embed"):
        np.testing.assert_array_equal(params[path], flat[path])
    np.testing.assert_array_equal(params["patch_embed"]["kernel"], flat["patch_embed"]["kernel"])
