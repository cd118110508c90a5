"""EViT on DeiT-B, ImageNet-1k: 70 % of the patch tokens stay in blocks 3, 6 and 9.

Multiply-adds: 11.621 G of 17.564, the method's own counted (dense top-1 81.8 %).

Off the shelf, on published weights. Published: GTP-ViT's table: 80.5 %.
    python eval.py --config configs/deit_b_evit.py --weights deit_base_patch16_224.safetensors
From scratch, 300 epochs. Published: none for EViT on DeiT-B.
    python train.py --config configs/deit_b_evit.py
"""

from pathlib import Path

from tcvit_jax import EViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_base_patch16_224"
    config.reducer = reducers.to_config(EViT())
    config.schedule = [0, 0, 0, 58, 0, 0, 41, 0, 0, 29, 0, 0]
    # As its authors train it: all tokens for ten epochs, and over a hundred more down to this.
    config.warmdown.update(start_epoch=10.0, epochs=100.0, stages=8)
    return config
