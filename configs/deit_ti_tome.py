"""ToMe on DeiT-Ti, ImageNet-1k: 13 of 196 patch tokens leave every block.

Multiply-adds: 0.749 G of 1.254, the method's own counted (dense top-1 72.2 %).

Off the shelf, on published weights. Published: none for ToMe on DeiT-Ti.
    python eval.py --config configs/deit_ti_tome.py --weights deit_tiny_patch16_224.safetensors
From scratch, 300 epochs. Published: ToMe: 71.27 %.
    python train.py --config configs/deit_ti_tome.py
"""

from pathlib import Path

from tcvit_jax import ToMe, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """The recipe of `deit_imagenet.py`, condensed."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_tiny_patch16_224"
    config.reducer = reducers.to_config(ToMe())
    config.schedule = 13
    return config
