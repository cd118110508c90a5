"""What the DeiT configurations share: ImageNet-1k and DeiT's recipe (Touvron et al., 2021), from scratch in 300 epochs.

RandAugment, mixup, CutMix, random erasing, every image three times a pass, label smoothing, stochastic depth. Rates are
those of 512 images a step, scaled; timm's steps of the learning rate are epochs, here they are updates.
"""

from ml_collections import ConfigDict

from tcvit_jax import config as base


def get_config() -> ConfigDict:
    """DeiT-S without reduction: 300 epochs, 1,024 images a step, bfloat16."""
    config = base.default()
    config.update(
        model={"name": "deit_small_patch16_224", "drop_path_rate": 0.1, "dtype": "bfloat16"},
        data={"name": "imagenet2012", "auto_augment": "rand-m9-mstd0.5-inc1", "repeats": 3, "workers": 16},
        mixing={"mixup": 0.8, "cutmix": 1.0},
    )
    config.update(random_erasing=0.25, label_smoothing=0.1)
    config.update(batch_size=1024, eval_batch_size=1024, epochs=300.0, eval_every=5.0, checkpoint_every=2500)
    config.update(
        optimizer={
            "lr": 5e-4, "lr_batch_size": 512, "min_lr": 1e-5, "warmup_lr": 1e-6, "warmup_epochs": 5.0,
            "warmup_prefix": False, "weight_decay": 0.05, "ema_decay": 0.99996,
        }
    )  # fmt: skip
    return config
