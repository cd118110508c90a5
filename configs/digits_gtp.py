"""GTP-ViT on scikit-learn's digits: 6 of 36 patch tokens leave every block.

python train.py --config configs/digits_gtp.py
"""

from pathlib import Path

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The dense twin, condensed."""
    config = base.read(Path(__file__).with_name("digits_dense.py"))
    config.reducer = reducers.to_config(GTP())
    config.schedule = 6
    return config
