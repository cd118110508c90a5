"""TC-ViT on scikit-learn's digits.

    python train.py --config configs/digits_tcvit.py
"""

from ml_collections import ConfigDict

from configs import digits_dense
from tcvit_jax import TCViT, reducers


def get_config() -> ConfigDict:
    """The dense twin, with 6 patch tokens removed per block."""
    config = digits_dense.get_config()
    config.reducer = reducers.to_config(TCViT())
    config.schedule = 6
    return config
