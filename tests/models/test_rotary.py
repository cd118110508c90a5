"""Models with rotary positions, whose tokens keep the positions of their patches when others are removed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tcvit_jax as tc
from tcvit_jax.ops.rotary import Rotary
from tests.models.builders import SMALL, images_of, variables_of
from tests.ops.test_rotary import angles, rotated
from tests.switches import COMPILED_METHODS

ROPE_MODELS = {"dinov3": "vit_small_plus_patch16_dinov3_qkvb", "cat": "eva02_base_patch14_448"}
SIZES = {**SMALL, "num_classes": 3}


def rope_model(reducer=None, schedule=0, rope_type="dinov3", **overrides):
    return tc.create_model(ROPE_MODELS[rope_type], reducer, schedule, **{**SIZES, **overrides})


def reference(model, variables, image, kept):
    """Return the tokens after all blocks in float64; `kept[i]` are the patches that survive block `i`."""
    params = jax.tree.map(partial(np.asarray, dtype=np.float64), variables["params"])
    tokens = np.asarray(model.apply(variables, image[None], method="start").x[0], np.float64)
    heads, prefix, width = model.num_heads, model.prefix, model.embed_dim
    head_dim = width // heads
    origin = np.arange(len(tokens) - prefix)
    angle = angles(model.rope_type, model.rope_temperature, model.grid, head_dim, model.ref_feat_shape)

    def norm(x, layer):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.norm_eps) * layer[
            "scale"
        ] + layer["bias"]

    for index in range(model.depth):
        block = params[f"blocks_{index}"]
        attn, mlp = block["attn"], block["mlp"]
        bias = np.concatenate([attn["qkv"]["q_bias"], np.zeros(width), attn["qkv"]["v_bias"]])
        x = (norm(tokens, block["norm1"]) @ attn["qkv"]["kernel"] + bias).reshape(-1, 3, heads, head_dim)
        q, k, v = x.transpose(1, 2, 0, 3)
        for each in (q, k):
            each[:, prefix:] = rotated(each[:, prefix:], angle[origin], model.rope_type == "cat")
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(head_dim)
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        values = (probs / probs.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(-1, width)
        out = values @ attn["proj"]["kernel"] + attn["proj"]["bias"]
        tokens = tokens + out * (block["ls1"]["gamma"] if "ls1" in block else 1)
        rows = [*range(prefix), *(prefix + row for row, patch in enumerate(origin) if patch in kept[index])]
        tokens, origin = tokens[rows], np.asarray([patch for patch in origin if patch in kept[index]])
        gate, value = np.split(norm(tokens, block["norm2"]) @ mlp["fc1"]["kernel"] + mlp["fc1"]["bias"], 2, axis=-1)
        activation = gate / (1 + np.exp(-gate)) * value
        activation = norm(activation, mlp["norm"]) if "norm" in mlp else activation
        out = activation @ mlp["fc2"]["kernel"] + mlp["fc2"]["bias"]
        tokens = tokens + out * (block["ls2"]["gamma"] if "ls2" in block else 1)
    return tokens


@pytest.mark.parametrize("rope_type", ROPE_MODELS)
def test_dropped_tokens_do_not_move_the_others(rope_type):
    """Compare all tokens with a reference in float64 that indexes its rotations by patch."""
    model = rope_model(tc.TopK(), [9, 7, 4], rope_type)
    variables, images = variables_of(model), images_of(2)
    apply = jax.jit(lambda v, x: model.apply(v, x, method="features", blocks=1, trace=True))
    (tokens,), trace = apply(variables, images)
    for image in range(2):
        kept = [set(np.asarray(block[image]).tolist()) for block in trace.kept]
        expected = reference(model, variables, images[image], kept)
        np.testing.assert_allclose(tokens[image], expected, rtol=0, atol=2e-5)


def mean_rotation(model, patches):
    """Return the cosines and sines `[2, d]` of a fused token in float64; padding without patches is not rotated."""
    head_dim = model.embed_dim // model.num_heads
    if not len(patches):
        return np.stack([np.ones(head_dim), np.zeros(head_dim)])
    place = np.mean(np.unravel_index(patches, model.grid), axis=1)
    angle = angles(model.rope_type, model.rope_temperature, model.grid, head_dim, model.ref_feat_shape, [place])[0]
    return np.stack([np.cos([*angle, *angle]), np.sin([*angle, *angle])])


@pytest.mark.parametrize("reducer", COMPILED_METHODS)
def test_survivors_have_the_rotation_of_their_patch(reducer, monkeypatch):
    """Bit for bit, with any method, in every block; and a model that removes nothing is the dense program.

    Fused tokens have the rotation of the mean coordinate of their patches.
    """
    model, rotations = rope_model(reducer, tc.schedule.at_most((9, 0, 4)), global_pool="token"), []
    original = Rotary.rotation_of

    def record(self, origin, slots, max_fused):
        rotation = original(self, origin, slots, max_fused)
        jax.debug.callback(lambda *arrays: rotations.append(jax.tree.map(np.array, arrays)), rotation.cos, rotation.sin)
        return rotation

    monkeypatch.setattr(Rotary, "rotation_of", record)
    variables, images = variables_of(model), images_of(2)
    logits, trace = jax.jit(partial(model.apply, trace=True))(variables, images)
    jax.effects_barrier()
    assert bool(jnp.isfinite(logits).all())
    assert len(rotations) == 2
    dense = model.parts.trunk.rotary.rotation()
    blocks = zip(trace.kept[:2], trace.slots[:2], trace.sizes[:2], strict=True)
    ordered = sorted(rotations, key=lambda tables: -tables[0].shape[1])
    for (kept, slots, sizes), tables in zip(jax.tree.map(np.asarray, list(blocks)), ordered, strict=True):
        for table, expected in zip(tables, (dense.cos, dense.sin), strict=True):
            is_patch = kept >= 0
            np.testing.assert_array_equal(table[is_patch], np.asarray(expected)[0][kept[is_patch]])
        for image, row in np.argwhere(kept < 0):
            patches = np.flatnonzero(slots[image] == row)
            assert len(patches) == sizes[image, row]
            expected = mean_rotation(model, patches)
            np.testing.assert_allclose([table[image, row] for table in tables], expected, rtol=0, atol=1e-5)
    program = str(jax.make_jaxpr(rope_model().apply)(variables_of(rope_model()), images))
    other = rope_model(reducer, 0)
    assert str(jax.make_jaxpr(other.apply)(variables_of(other), images)) == program


def test_resolution_changes_the_rotation_and_no_parameter():
    small, large = rope_model(pos_embed="none"), rope_model(img_size=(24, 32))
    shapes = [tc.models.variable_shapes(model) for model in (small, large)]
    assert jax.tree.map(lambda leaf: leaf.shape, shapes[0]) == jax.tree.map(lambda leaf: leaf.shape, shapes[1])
    assert large.parts.trunk.rotary.grid == (6, 8)
