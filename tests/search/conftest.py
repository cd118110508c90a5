"""Fixtures: a small checkpoint for the digits data, and a search of it."""

import pytest

from tcvit_jax.assembly import from_checkpoint
from tcvit_jax.search.settings import build
from tcvit_jax.search.space import Space
from tcvit_jax.tasks.classify import Classify
from tests.benchmark.conftest import save


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return a checkpoint of a small model without reduction."""
    return save(tmp_path_factory.mktemp("search") / "dense", 0)


@pytest.fixture(scope="session")
def pretrained(checkpoint):
    return from_checkpoint(checkpoint)


def small_space(**changes):
    """Return a space of four candidates: two methods and two combinations."""
    names = {
        "scores": "cls", "matches": "cosine", "fusions": "hard,drop", "families": "constant", "methods": "uniform,tome",
        **changes,
    }  # fmt: skip
    return Space.parse(**names)


def build_settings(pretrained, space=None, **changes):
    options = {"macs_fraction": 0.7, "images": 24, "min_images": 8, "eta": 2, **changes}
    return build(pretrained, space or small_space(), options.pop("task", None) or Classify(), **options)
