"""GTP-ViT on DeiT-Ti, ImageNet-1k: 8 of 196 patch tokens leave every block.

GTP-ViT publishes no DeiT-Ti result. Multiply-adds without the graph: 0.927 G of 1.254 (dense top-1 72.2).

Off the shelf, on published weights (timm's names):
    python eval.py --config configs/deit_ti_gtp.py --weights deit_tiny_patch16_224.safetensors
Finetuned from them:
    python train.py --config configs/deit_ti_gtp.py --config.weights=deit_tiny_patch16_224.safetensors \\
        --config.epochs=30 --config.optimizer.lr=2e-5 --config.optimizer.min_lr=2e-6 \\
        --config.optimizer.warmup_epochs=0
From scratch:
    python train.py --config configs/deit_ti_gtp.py
"""

from pathlib import Path

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """DeiT-Ti with 8 tokens removed per block."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_tiny_patch16_224"
    config.reducer = reducers.to_config(GTP())
    config.schedule = 8
    return config
