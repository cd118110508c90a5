"""EViT on LV-ViT-S, ImageNet-1k: 70 % of the patch tokens stay in blocks 4, 8 and 12.

Multiply-adds: 4.712 G of 6.551, the method's own counted (dense top-1 83.3 %).

Off the shelf, on published weights. Published: none for EViT on LV-ViT-S.
    python eval.py --config configs/lvvit_s_evit.py --weights lvvit_s-26M-224-83.3.pth.tar
From scratch, 300 epochs. Published: none for EViT on LV-ViT-S.
    python train.py --config configs/lvvit_s_evit.py
"""

from pathlib import Path

from tcvit_jax import EViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `lvvit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("lvvit_imagenet.py"))
    config.reducer = reducers.to_config(EViT())
    config.schedule = [0, 0, 0, 0, 58, 0, 0, 0, 41, 0, 0, 0, 29, 0, 0, 0]
    # As its authors train it: all tokens for ten epochs, and over a hundred more down to this.
    config.warmdown.update(start_epoch=10.0, epochs=100.0, stages=8)
    return config
