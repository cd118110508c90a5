"""GTP-ViT on scikit-learn's digits.

    python train.py --config configs/digits_gtp.py
"""

from ml_collections import ConfigDict

from configs import digits_dense
from tcvit_jax import GTP, reducers


def get_config() -> ConfigDict:
    """The dense twin, with 6 patch tokens removed per block."""
    config = digits_dense.get_config()
    config.reducer = reducers.to_config(GTP())
    config.schedule = 6
    return config
