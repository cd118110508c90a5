"""EViT on DeiT-S, ImageNet-1k: 70 % of the patch tokens stay in blocks 3, 6 and 9.

Multiply-adds: 3.035 G of 4.599, the method's own counted (dense top-1 79.8 %).

Off the shelf, on published weights. Published: GTP-ViT's and others' tables have EViT at 2.3 G, 73.83 %, and none at
this rate.
    python eval.py --config configs/deit_s_evit.py --weights deit_small_patch16_224.safetensors
From scratch, 300 epochs. Published: EViT: 79.5 %.
    python train.py --config configs/deit_s_evit.py
"""

from pathlib import Path

from tcvit_jax import EViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.reducer = reducers.to_config(EViT())
    config.schedule = [0, 0, 0, 58, 0, 0, 41, 0, 0, 29, 0, 0]
    # As its authors train it: all tokens for ten epochs, and over a hundred more down to this.
    config.warmdown.update(start_epoch=10.0, epochs=100.0, stages=8)
    return config
