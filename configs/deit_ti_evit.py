"""EViT on DeiT-Ti, ImageNet-1k: 70 % of the patch tokens stay in blocks 3, 6 and 9.

Multiply-adds: 0.823 G of 1.254, the method's own counted (dense top-1 72.2 %).

Off the shelf, on published weights. Published: none for EViT on DeiT-Ti.
    python eval.py --config configs/deit_ti_evit.py --weights deit_tiny_patch16_224.safetensors
From scratch, 300 epochs. Published: none for EViT on DeiT-Ti.
    python train.py --config configs/deit_ti_evit.py
"""

from pathlib import Path

from tcvit_jax import EViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_tiny_patch16_224"
    config.reducer = reducers.to_config(EViT())
    config.schedule = [0, 0, 0, 58, 0, 0, 41, 0, 0, 29, 0, 0]
    # As its authors train it: all tokens for ten epochs, and over a hundred more down to this.
    config.warmdown.update(start_epoch=10.0, epochs=100.0, stages=8)
    return config
