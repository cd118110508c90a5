"""What the DeiT configurations share: ImageNet-1k and the optimiser of DeiT's recipe (Touvron et al., 2021).

Of that recipe's augmentation only random crops and flips are here; without its RandAugment, mixup, cutmix and random
erasing a model trained from scratch stays below the published accuracy.
"""

from tcvit_jax import config as base


def get_config() -> base.Config:
    """DeiT-S without reduction: 300 epochs, 1,024 images a step, bfloat16."""
    config = base.default()
    config.model.update(name="deit_small_patch16_224", drop_path_rate=0.1, dtype="bfloat16")
    config.data.update(name="imagenet2012", workers=16)
    config.update(batch_size=1024, eval_batch_size=1024, epochs=300.0, eval_every=5.0, checkpoint_every=2500)
    config.optimizer.update(lr=1e-3, min_lr=1e-5, warmup_epochs=5.0, weight_decay=0.05, ema_decay=0.9999)
    return config
