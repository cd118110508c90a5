"""A small dense ViT on scikit-learn's 1,797 digits: the baseline of the configurations with reduction.

python train.py --config configs/digits_dense.py
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

RESULT = recipes.Result("dense", 98.05, gmacs=0.00799, source="docs/results.md", note="352 of 359 images, seed 0")


def get_config() -> ConfigDict:
    """Return the configuration: 12x12 images, 36 patches of 2x2, four blocks of width 64."""
    config = base.default()
    config.update(
        model={
            "name": "deit_tiny_patch16_224", "img_size": 12, "patch_size": 2, "in_chans": 1, "num_classes": 10,
            "embed_dim": 64, "depth": 4, "num_heads": 4, "drop_path_rate": 0.05,
        },
        data={
            "name": "digits", "augmentation": "shift", "shift": 1, "mean": (0.3,), "std": (0.35,), "crop_pct": 1.0,
        },
    )  # fmt: skip
    config.update(batch_size=128, eval_batch_size=128, epochs=80.0, log_every=50, eval_every=10.0, checkpoint_every=200)
    config.update(optimizer={"lr": 2e-3, "warmup_epochs": 5.0, "ema_decay": 0.99})
    return config
