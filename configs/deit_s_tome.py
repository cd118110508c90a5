"""ToMe on DeiT-S, ImageNet-1k: 13 of 196 patch tokens leave every block.

Multiply-adds: 2.724 G of 4.599, the method's own counted (dense top-1 79.8 %).

Off the shelf, on published weights. Published: a public reproduction: about 79.0 %.
    python eval.py --config configs/deit_s_tome.py --weights deit_small_patch16_224.safetensors
From scratch, 300 epochs. Published: ToMe: 79.4 % (its repository: 79.36).
    python train.py --config configs/deit_s_tome.py
"""

from pathlib import Path

from tcvit_jax import ToMe, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.reducer = reducers.to_config(ToMe())
    config.schedule = 13
    return config
