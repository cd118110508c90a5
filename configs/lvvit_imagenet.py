"""Base of the LV-ViT configurations: ImageNet-1k and the authors' recipe (Jiang et al., 2021), 300 epochs from scratch.

The recipe has MixToken instead of mixup, and a label for every token. Token labels are read from the label maps in
`data.label_maps` if it is set (the authors publish label maps from an NFNet-F6, which the published 83.3 % use);
otherwise every token has the label of its image. The authors' last ten epochs at the minimum learning rate are omitted.
"""

from ml_collections import ConfigDict

from tcvit_jax import config as base


def get_config() -> ConfigDict:
    """Return the configuration of dense LV-ViT-S: 300 epochs, batch size 1,024, bfloat16."""
    config = base.default()
    config.update(
        model={"name": "lvvit_s", "drop_path_rate": 0.1, "dtype": "bfloat16"},
        data={
            "name": "imagenet2012", "auto_augment": "rand-m9-mstd0.5-inc1", "train_interpolation": "random",
        },
        mixing={"mix_token": True},
    )  # fmt: skip
    config.update(random_erasing=0.25, label_smoothing=0.1, token_labels=1.0)
    config.update(batch_size=1024, eval_batch_size=1024, epochs=300.0, eval_every=5.0, checkpoint_every=2500)
    config.update(
        optimizer={
            "lr": 1.6e-3, "lr_batch_size": 1024, "min_lr": 1e-5, "warmup_lr": 1e-6, "warmup_epochs": 5.0,
            "warmup_prefix": False, "weight_decay": 0.05, "ema_decay": 0.99992,
        }
    )  # fmt: skip
    return config
