"""Self-distillation of the Fashion-MNIST model for one epoch, reduced to half of its multiply-adds.

As `configs/fashion_finetune.py`, with the dense model of the same weights as the teacher. Soft distillation and the loss
between restored patch tokens and the teacher's patch tokens have weights of 0.5 each.

python train.py --config configs/fashion_selfdistill.py --config.data.dir=PATH --config.weights=runs/fashion_dense --config.reducer.name=gtp
"""  # noqa: E501

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

# By reducer: means of three seeds, docs/results.md.
SELFDISTILLED = {
    "gtp": recipes.Result("GTP", 86.20, gmacs=0.00833),
    "tcvit": recipes.Result("TC-ViT", 85.94, gmacs=0.00833),
}


def get_config() -> ConfigDict:
    """Return the configuration of `fashion_finetune.py` with a teacher."""
    config = base.read(Path(__file__).with_name("fashion_finetune.py"))
    recipes.add_teacher(config)
    return config
