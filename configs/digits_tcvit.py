"""TC-ViT on scikit-learn's digits: remove 6 of 36 patch tokens in each block.

python train.py --config configs/digits_tcvit.py
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import TCViT, reducers
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

RESULT = recipes.Result("TC-ViT", 97.21, gmacs=0.00523, source="docs/results.md", note="349 of 359 images, seed 0")


def get_config() -> ConfigDict:
    """Return the configuration of the dense model with the reduction."""
    config = base.read(Path(__file__).with_name("digits_dense.py"))
    config.reducer = reducers.to_config(TCViT())
    config.schedule = 6
    return config
