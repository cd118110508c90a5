"""GTP-ViT on scikit-learn's digits: remove 6 of 36 patch tokens in each block.

python train.py --config configs/digits_gtp.py
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

RESULT = recipes.Result("GTP", 97.49, gmacs=0.00528, source="docs/results.md", note="350 of 359 images, seed 0")


def get_config() -> ConfigDict:
    """Return the configuration of the dense model with the reduction."""
    config = base.read(Path(__file__).with_name("digits_dense.py"))
    config.reducer = reducers.to_config(GTP())
    config.schedule = 6
    return config
