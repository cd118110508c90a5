"""TC-ViT on DeiT-S, ImageNet-1k: 16 of 196 patch tokens leave every block.

Published (TC-ViT, abstract): half of the multiply-adds of DeiT-S gone without loss of accuracy (dense 79.8 % top-1),
by a training recipe that is not public: 2.28 G of 4.60.

Off the shelf, on published weights (timm's names):
    python eval.py --config configs/deit_s_tcvit.py --weights deit_small_patch16_224.safetensors
Finetuned from them:
    python train.py --config configs/deit_s_tcvit.py --config.weights=deit_small_patch16_224.safetensors \\
        --config.epochs=30 --config.optimizer.lr=2e-5 --config.optimizer.min_lr=2e-6 \\
        --config.optimizer.warmup_epochs=0
From scratch:
    python train.py --config configs/deit_s_tcvit.py
"""

from pathlib import Path

from tcvit_jax import TCViT, reducers
from tcvit_jax import config as base


def get_config() -> base.Config:
    """DeiT-S with 16 tokens removed per block."""
    config = base.read(Path(__file__).with_name("deit_imagenet.py"))
    config.model.name = "deit_small_patch16_224"
    config.reducer = reducers.to_config(TCViT())
    config.schedule = 16
    return config
