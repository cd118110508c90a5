"""One epoch more of the Fashion-MNIST model at half of its multiply-adds, taught by itself before the reduction.

As `configs/fashion_finetune.py`, whose dense weights are also the teacher: half of the loss is the teacher's
distribution, and restored patches are drawn to the teacher's with a weight of one half.

python train.py --config configs/fashion_selfdistill.py --config.data.dir=PATH --config.weights=runs/fashion_dense --config.reducer.name=gtp
"""  # noqa: E501

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

# By reducer: means of three seeds, README.
SELFDISTILLED = {
    "gtp": recipes.Result("GTP", 86.20, gmacs=0.00833),
    "tcvit": recipes.Result("TC-ViT", 85.94, gmacs=0.00833),
}


def get_config() -> ConfigDict:
    """The finetune's recipe, and a teacher."""
    config = base.read(Path(__file__).with_name("fashion_finetune.py"))
    recipes.add_teacher(config)
    return config
