"""GTP-ViT on DeiT-S, ImageNet-1k: 8 of 196 patch tokens leave every block.

Multiply-adds: 3.438 G of 4.599, the method's own counted (dense top-1 79.8 %).

Off the shelf, on published weights. Published: GTP-ViT, abstract: about 79.5 %, 0.3 below the dense model.
    python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors
From scratch, 300 epochs. Published: none for GTP-ViT on DeiT-S.
    python train.py --config configs/deit_s_gtp.py
"""

from pathlib import Path

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.reducer = reducers.to_config(GTP())
    config.schedule = 8
    return config
