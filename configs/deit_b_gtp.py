"""GTP-ViT on DeiT-B, ImageNet-1k: 8 of 196 patch tokens leave every block.

Published (GTP-ViT, table and repository): 81.46 % top-1 off the shelf at 13.1 G of 17.6 (dense 81.8), with attention
sparsified to 0.6, a switch that is not used here.

Off the shelf, on published weights (timm's names):
    python eval.py --config configs/deit_b_gtp.py --weights deit_base_patch16_224.safetensors
Finetuned from them:
    python train.py --config configs/deit_b_gtp.py --config.weights=deit_base_patch16_224.safetensors \\
        --config.epochs=30 --config.optimizer.lr=2e-5 --config.optimizer.min_lr=2e-6 \\
        --config.optimizer.warmup_epochs=0
From scratch:
    python train.py --config configs/deit_b_gtp.py
"""

from pathlib import Path

from tcvit_jax import GTP, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """DeiT-B with 8 tokens removed per block."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_base_patch16_224"
    config.reducer = reducers.to_config(GTP())
    config.schedule = 8
    return config
