"""Small Vision Transformers with parameters and images, for the tests of all packages."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp

import tcvit_jax as tc
from tests import golden

SMALL = {"img_size": 24, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 7}


def small(reducer=None, schedule=0, **overrides):
    overrides = {**SMALL, **overrides}
    if isinstance(reducer, tc.CubistMerge):
        # Of the desired tokens, it removes rows and columns.
        counts = (schedule,) * overrides["depth"] if isinstance(schedule, int) else tuple(schedule)
        schedule = tc.schedule.at_most(counts)
    return tc.create_model("deit_tiny_patch16_224", reducer, schedule, **overrides)


def variables_of(model, seed=0):
    """Parameters with enough spread that attention is not uniform, shared by all reducers, which have none."""
    return _variables(replace(model, reducer=None, removed=(), dtype="float32"), seed)


@cache
def _variables(model, seed):
    images = jnp.zeros((1, *model.img_size, model.in_chans))
    params = jax.jit(model.init)(jax.random.key(seed), images)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    )


@partial(jax.jit, static_argnums=(0, 3))
def _apply(model, variables, images, trace):
    return model.apply(variables, images, trace=trace)


def run(model, variables, images):
    """Logits. Equal models share one compilation."""
    return _apply(model, variables, images, False)


def run_traced(model, variables, images):
    return _apply(model, variables, images, True)


def images_of(batch, seed=0):
    return golden.images(batch, (24, 24), seed)
