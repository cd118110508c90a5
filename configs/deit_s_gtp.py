"""GTP-ViT on DeiT-S, ImageNet-1k: 8 of 196 patch tokens leave every block.

Published (GTP-ViT, abstract): about 79.5 % top-1 off the shelf, 0.3 below the dense 79.8, with 26 % fewer
multiply-adds: 3.42 G of 4.60, the graph not counted.

Off the shelf, on published weights (timm's names):
    python eval.py --config configs/deit_s_gtp.py --weights deit_small_patch16_224.safetensors
Finetuned from them:
    python train.py --config configs/deit_s_gtp.py --config.weights=deit_small_patch16_224.safetensors \\
        --config.epochs=30 --config.optimizer.lr=2e-5 --config.optimizer.min_lr=2e-6 \\
        --config.optimizer.warmup_epochs=0
From scratch:
    python train.py --config configs/deit_s_gtp.py
"""

from pathlib import Path

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """DeiT-S with 8 tokens removed per block."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_small_patch16_224"
    config.reducer = reducers.to_config(GTP())
    config.schedule = 8
    return config
