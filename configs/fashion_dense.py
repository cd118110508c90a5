"""A small dense ViT on Fashion-MNIST: 60,000 + 10,000 28x28 images of ten classes of clothing (Xiao et al., 2017).

The data are an image folder, `PATH/{train,val}/CLASS/*.png`. A run takes 30 minutes on two CPU cores. For the accuracy
of reducers off the shelf, see `docs/walk-order.md`.

python train.py --config configs/fashion_dense.py --config.data.dir=PATH
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

RESULT = recipes.Result("dense", 88.10, gmacs=0.01672, source="docs/results.md", note="8,810 of 10,000 images, seed 0")


def get_config() -> ConfigDict:
    """Return the configuration: 28x28 images, 49 patches of 4x4, six blocks of width 64."""
    config = base.default()
    config.update(
        model={
            "name": "deit_tiny_patch16_224", "img_size": 28, "patch_size": 4, "in_chans": 1, "num_classes": 10,
            "embed_dim": 64, "depth": 6, "num_heads": 4, "drop_path_rate": 0.05,
        },
        data={
            "name": "folder", "dir": "fashion", "augmentation": "shift", "shift": 2, "mean": (0.286,), "std": (0.353,),
            "crop_pct": 1.0,
        },
    )  # fmt: skip
    config.update(batch_size=128, eval_batch_size=500, epochs=12.0, log_every=100, eval_every=2.0)
    config.update(optimizer={"lr": 1e-3, "warmup_epochs": 1.0, "ema_decay": 0.999})
    return config
