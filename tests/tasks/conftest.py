"""Fixtures: a small checkpoint for the digits data, and random features."""

import numpy as np
import pytest

from tcvit_jax.tasks.features import FeatureOutputs, Features
from tests.benchmark.conftest import save


@pytest.fixture(scope="session")
def digits_checkpoint(tmp_path_factory):
    """Return a checkpoint of a small model without reduction."""
    return save(tmp_path_factory.mktemp("tasks") / "dense", 0)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_features(images=13, width=6, classes=4, seed=0, weights=1):
    """Return random features, with every class among the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % classes).astype(np.int32)
    values = unit(rng.normal(size=(weights, images, width)) + np.eye(width)[labels % width])
    return Features(values, labels, np.ones((weights, images), bool), classes)


def make_outputs(images=13, train_images=40, **options):
    return FeatureOutputs(make_features(images, **options), make_features(train_images, **{**options, "seed": 99}))
