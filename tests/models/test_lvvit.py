"""LV-ViT: stem, heads and statistics, with and without reducers."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax import models, sharding
from tests import golden
from tests.convert import cases
from tests.models.test_compiled import COLLECTIVES

_, SIZES, _, _ = cases.case("lvvit")
REDUCERS = [tc.GTP(), tc.GTP(attention_keep=0.7), tc.TCViT(), tc.TCViT(attention_keep=0.7), tc.TCViT(fuse="single")]


def lvvit(reducer=None, schedule=0, **overrides):
    return tc.create_model("lvvit_s", reducer, schedule, **{**SIZES, "depth": 2, **overrides})


@cache
def variables():
    tensors = {name: value for name, value in cases.weights("lvvit").items() if not name.startswith("blocks.2.")}
    return tc.convert.from_torch(tensors, lvvit())


def images(batch):
    return golden.images(batch, (128, 128), 3)


@pytest.mark.parametrize(
    "reducer", [REDUCERS[0], *(pytest.param(r, marks=pytest.mark.slow) for r in REDUCERS[1:])], ids=str
)
def test_zero_schedule_is_the_plain_model_and_batch_size_does_not_matter(reducer):
    plain = jax.jit(lvvit().apply)(variables(), images(3))
    np.testing.assert_array_equal(jax.jit(lvvit(reducer, 0).apply)(variables(), images(3)), plain)
    condensed = jax.jit(lvvit(reducer, 20).apply)
    batched = condensed(variables(), images(3))
    single = jnp.concatenate([condensed(variables(), image[None]) for image in images(3)])
    np.testing.assert_allclose(batched, single, rtol=0, atol=5e-6)
    assert float(jnp.abs(batched - plain).max()) > 1e-3


@pytest.mark.parametrize("reducer", [None, tc.GTP(), tc.TCViT(fuse="single")], ids=str)
def test_heads_read_every_remaining_token(reducer):
    """The logits are `head(class) + max(aux_head(patches)) / 2` of the features."""
    model = lvvit(reducer, 20)
    params = variables()["params"]
    both = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x, method="features")))
    logits, tokens = (np.asarray(output) for output in both(variables(), images(2)))
    assert tokens.shape[1] == 1 + model.cost().tokens[-1]
    head, aux = ({key: np.asarray(value) for key, value in params[name].items()} for name in ("head", "aux_head"))
    expected = tokens[:, 0] @ head["kernel"] + head["bias"]
    expected += 0.5 * (tokens[:, 1:] @ aux["kernel"] + aux["bias"]).max(1)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_sparsified_attention_changes_logits():
    full, sparse = (jax.jit(lvvit(tc.GTP(attention_keep=keep), 20).apply) for keep in (1.0, 0.5))
    assert float(jnp.abs(full(variables(), images(1)) - sparse(variables(), images(1))).max()) > 1e-3


def test_stem_equals_numpy_reference():
    """Three convolutions with explicit padding, running statistics and ReLU, and a patch convolution."""
    model = lvvit(depth=1)
    x = images(1)[:, :32, :32]
    small = tc.create_model("lvvit_s", **{**SIZES, "img_size": 32, "depth": 1})
    tensors = {
        name: value for name, value in cases.weights("lvvit").items() if not name.startswith(("blocks.1.", "blocks.2."))
    }
    small_variables = tc.convert.from_torch(tensors, small)
    stem = small.apply(
        small_variables, jnp.asarray(x), method=lambda self, images: self.embedding.patch_embed(images, False)
    )
    expected = x[0].transpose(2, 0, 1).astype(np.float64)
    for index, (size, stride) in enumerate(((7, 2), (3, 1), (3, 1)), 1):
        expected = convolve(expected, tensors[f"patch_embed.conv{index}.weight"], size // 2, stride)
        scale, bias, mean, var = (
            tensors[f"patch_embed.bn{index}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        expected = np.maximum((expected - mean) / np.sqrt(var + 1e-5) * scale + bias, 0)
    bias = tensors["patch_embed.proj.bias"][:, None, None]
    expected = convolve(expected, tensors["patch_embed.proj.weight"], 0, 8) + bias
    np.testing.assert_allclose(stem[0], expected.transpose(1, 2, 0), rtol=0, atol=1e-4)
    assert model.grid == (8, 8)


def convolve(x, kernel, padding, stride):
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    size = kernel.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True)


@pytest.mark.parametrize("reducer", [tc.GTP(), tc.TCViT()], ids=str)
def test_forward_on_eight_devices_has_no_collectives(reducer):
    model, mesh = lvvit(reducer, 20), sharding.data_mesh()
    replicated, by_row = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    shapes = models.variable_shapes(model), jax.ShapeDtypeStruct((8, 128, 128, 3), np.float32)
    forward = jax.jit(model.apply, in_shardings=(replicated, by_row), out_shardings=by_row)
    text = forward.lower(*shapes).compile().as_text()
    assert not [name for name in COLLECTIVES if name in text]


def test_batch_statistics_change_only_in_training():
    model = lvvit(depth=1)
    initial = jax.tree.map(
        jnp.asarray, {"params": {**variables()["params"]}, "batch_stats": variables()["batch_stats"]}
    )
    del initial["params"]["blocks_1"]
    x = images(4)
    logits, changed = model.apply(initial, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
    before, after = initial["batch_stats"]["patch_embed"]["bn1"], changed["batch_stats"]["patch_embed"]["bn1"]
    kernel = initial["params"]["patch_embed"]["conv1"]["kernel"]
    first = jax.lax.conv_general_dilated(
        jnp.asarray(x), kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * first.mean((0, 1, 2)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * first.var((0, 1, 2)), rtol=1e-4)
    assert float(jnp.abs(logits - model.apply(initial, x)).max()) > 1e-3


def test_cost_equals_profiler_count():
    """The convolutions of the stem and the heads of all patches are counted: 6.551 G for the official code."""
    dense = tc.create_model("lvvit_s").cost()
    assert round(dense.total / 1e9, 3) == 6.551
    assert dense.skipped == 0
    half = 112 * 112
    assert dense.embed == half * 64 * (49 * 3 + 9 * 64 + 9 * 64) + 196 * 64 * 64 * 384
    condensed = tc.create_model("lvvit_s", tc.TCViT(), 8).cost()
    assert condensed.head == 384 * 1000 * (1 + 196 - 16 * 8)
    compiled = (
        jax.jit(lvvit(depth=1).apply)
        .lower(models.variable_shapes(lvvit(depth=1)), jnp.zeros((1, 128, 128, 3)))
        .compile()
    )
    # The compiler also counts norms and other element-wise operations, but no products with padding.
    assert 0.97 < compiled.cost_analysis()["flops"] / (2 * lvvit(depth=1).cost().total) < 1.03
