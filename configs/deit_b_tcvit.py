"""TC-ViT on DeiT-B, ImageNet-1k: 16 of 196 patch tokens leave every block.

No published TC-ViT result names DeiT-B. Multiply-adds: 8.74 G of 17.56 (dense top-1 81.8).

Off the shelf, on published weights (timm's names):
    python eval.py --config configs/deit_b_tcvit.py --weights deit_base_patch16_224.safetensors
Finetuned from them:
    python train.py --config configs/deit_b_tcvit.py --config.weights=deit_base_patch16_224.safetensors \\
        --config.epochs=30 --config.optimizer.lr=2e-5 --config.optimizer.min_lr=2e-6 \\
        --config.optimizer.warmup_epochs=0
From scratch:
    python train.py --config configs/deit_b_tcvit.py
"""

from pathlib import Path

from tcvit_jax import TCViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """DeiT-B with 16 tokens removed per block."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_base_patch16_224"
    config.reducer = reducers.to_config(TCViT())
    config.schedule = 16
    return config
