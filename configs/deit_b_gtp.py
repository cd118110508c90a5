"""GTP-ViT on DeiT-B, ImageNet-1k: 8 of 196 patch tokens leave every block.

Multiply-adds: 13.148 G of 17.564, the method's own counted (dense top-1 81.8 %).

Off the shelf, on published weights. Published: GTP-ViT, table: 81.5 % (its repository: 81.46, with attention
sparsified, which is not used here).
    python eval.py --config configs/deit_b_gtp.py --weights deit_base_patch16_224.safetensors
From scratch, 300 epochs. Published: none for GTP-ViT on DeiT-B.
    python train.py --config configs/deit_b_gtp.py
"""

from pathlib import Path

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_base_patch16_224"
    config.reducer = reducers.to_config(GTP())
    config.schedule = 8
    return config
