"""TC-ViT on LV-ViT-S, ImageNet-1k: 12 of 196 patch tokens leave every block.

Multiply-adds: 3.898 G of 6.551, the method's own counted (dense top-1 83.3 %).

Off the shelf, on published weights. Published: none for TC-ViT on LV-ViT-S.
    python eval.py --config configs/lvvit_s_tcvit.py --weights lvvit_s-26M-224-83.3.pth.tar
From scratch, 300 epochs. Published: none for TC-ViT on LV-ViT-S.
    python train.py --config configs/lvvit_s_tcvit.py
"""

from pathlib import Path

from tcvit_jax import TCViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `lvvit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("lvvit_imagenet.py"))
    config.reducer = reducers.to_config(TCViT())
    config.schedule = 12
    return config
