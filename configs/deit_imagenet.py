"""Base of the DeiT configurations: ImageNet-1k and DeiT's recipe (Touvron et al., 2021), 300 epochs from scratch.

The recipe has RandAugment, mixup, CutMix, random erasing, three repeated augmentations per image, label smoothing and
stochastic depth. The learning rate is for a batch size of 512 and is scaled linearly. It changes with every update,
while timm changes it every epoch.
"""

from ml_collections import ConfigDict

from tcvit_jax import config as base


def get_config() -> ConfigDict:
    """Return the configuration of dense DeiT-S: 300 epochs, batch size 1,024, bfloat16."""
    config = base.default()
    config.update(
        model={"name": "deit_small_patch16_224", "drop_path_rate": 0.1, "dtype": "bfloat16"},
        data={"name": "imagenet2012", "auto_augment": "rand-m9-mstd0.5-inc1", "repeats": 3},
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
