"""TC-ViT on DeiT-S, ImageNet-1k: 16 of 196 patch tokens leave every block.

Multiply-adds: 2.295 G of 4.599, the method's own counted (dense top-1 79.8 %).

Off the shelf, on published weights. Published: TC-ViT, abstract: no degradation at half of the multiply-adds; whether
trained, it does not say.
    python eval.py --config configs/deit_s_tcvit.py --weights deit_small_patch16_224.safetensors
From scratch, 300 epochs. Published: none for TC-ViT on DeiT-S.
    python train.py --config configs/deit_s_tcvit.py
"""

from pathlib import Path

from tcvit_jax import TCViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.reducer = reducers.to_config(TCViT())
    config.schedule = 16
    return config
