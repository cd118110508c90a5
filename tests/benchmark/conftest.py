"""Fixtures: small checkpoints with random weights for the digits data."""

from dataclasses import asdict

import jax
import jax.numpy as jnp
import pytest

from tcvit_jax import checkpoint, config, models
from tcvit_jax.assembly import build_model, build_preprocessing

SMALL = [
    "--config.model.depth=2", "--config.model.embed_dim=16", "--config.model.num_heads=2",
    "--config.eval_batch_size=200",
]  # fmt: skip


def save(directory, seed, overrides=()):
    settings = config.load("configs/digits_dense.py", [*SMALL, f"--config.seed={seed}", *overrides])
    model = build_model(settings.model, settings.reduction)
    images = jnp.zeros((1, *model.img_size, model.in_chans))
    variables = jax.jit(model.init)(jax.random.key(seed), images)
    # Random noise avoids uniform attention.
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(7), leaf.shape), variables)
    meta = {
        "model": models.to_config(model), "preprocessing": asdict(build_preprocessing(settings.data, model)),
        "classes": [str(digit) for digit in range(10)], "config": settings.to_mapping(), "seed": seed,
    }  # fmt: skip
    checkpoint.save(directory, variables, meta)
    return str(directory)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Return checkpoints of one model with two seeds."""
    folder = tmp_path_factory.mktemp("weights")
    return [save(folder / str(seed), seed) for seed in (0, 1)]
