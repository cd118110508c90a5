"""GTP-ViT on LV-ViT-S, ImageNet-1k: 8 of 196 patch tokens leave every block.

Multiply-adds: 4.767 G of 6.551, the method's own counted (dense top-1 83.3 %).

Off the shelf, on published weights. Published: none for GTP-ViT on LV-ViT-S.
    python eval.py --config configs/lvvit_s_gtp.py --weights lvvit_s-26M-224-83.3.pth.tar
From scratch, 300 epochs. Published: none for GTP-ViT on LV-ViT-S.
    python train.py --config configs/lvvit_s_gtp.py
"""

from pathlib import Path

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `lvvit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("lvvit_imagenet.py"))
    config.reducer = reducers.to_config(GTP())
    config.schedule = 8
    return config
