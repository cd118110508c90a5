"""Finetuning of the Fashion-MNIST model for one epoch, reduced to half of its multiply-adds.

The weights are those of `configs/fashion_dense.py` with the same seed. A run takes 80 s on two CPU cores.

python train.py --config configs/fashion_finetune.py --config.data.dir=PATH --config.weights=runs/fashion_dense --config.reducer.name=gtp
"""  # noqa: E501

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import TCViT, reducers
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

# Before and after finetuning, by reducer: means of three seeds, docs/results.md. The dense models have 88.36 %.
OFF_THE_SHELF = {
    "gtp": recipes.Result("GTP", 83.20, gmacs=0.00833),
    "tcvit": recipes.Result("TC-ViT", 80.16, gmacs=0.00833),
    "tome": recipes.Result("ToMe", 86.99, gmacs=0.00835),
    "evit": recipes.Result("EViT", 82.30, gmacs=0.00836),
}
FINETUNED = {
    "gtp": recipes.Result("GTP", 86.31, gmacs=0.00833),
    "tcvit": recipes.Result("TC-ViT", 85.74, gmacs=0.00833),
    "tome": recipes.Result("ToMe", 87.46, gmacs=0.00835),
    "evit": recipes.Result("EViT", 86.03, gmacs=0.00836),
}


def get_config() -> ConfigDict:
    """Return the dense model's recipe with a fifth of its learning rate and a constant keep rate."""
    config = base.read(Path(__file__).with_name("fashion_dense.py"))
    config.reducer = reducers.to_config(TCViT())
    config.update(weights="runs/fashion_dense", gmacs=0.00836, schedule_family="keep_rate", epochs=1.0, eval_every=1.0)
    config.update(optimizer={"lr": 2e-4, "warmup_epochs": 0.1, "ema_decay": 0.99})
    return config
