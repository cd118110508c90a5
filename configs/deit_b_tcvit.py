"""TC-ViT on DeiT-B, ImageNet-1k: 16 of 196 patch tokens leave every block.

Multiply-adds: 8.763 G of 17.564, the method's own counted (dense top-1 81.8 %).

Off the shelf, on published weights. Published: none for TC-ViT on DeiT-B.
    python eval.py --config configs/deit_b_tcvit.py --weights deit_base_patch16_224.safetensors
From scratch, 300 epochs. Published: none for TC-ViT on DeiT-B.
    python train.py --config configs/deit_b_tcvit.py
"""

from pathlib import Path

from tcvit_jax import TCViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_base_patch16_224"
    config.reducer = reducers.to_config(TCViT())
    config.schedule = 16
    return config
