"""TC-ViT on LV-ViT-S, ImageNet-1k: remove 12 of 196 patch tokens in each block.

python eval.py --config configs/lvvit_s_tcvit.py --weights lvvit_s-26M-224-83.3.pth.tar
python train.py --config configs/lvvit_s_tcvit.py
python train.py --config configs/lvvit_s_tcvit.py:finetune --config.weights=lvvit_s-26M-224-83.3.pth.tar
python train.py --config configs/lvvit_s_tcvit.py:selfdistill --config.weights=lvvit_s-26M-224-83.3.pth.tar
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import TCViT
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.LVVIT_S,
    method="TC-ViT",
    reducer=TCViT(),
    schedule=12,
    gmacs=3.898,
    related={
        "selfdistill": [
            recipes.Result("DynamicViT", 81.97, gmacs=3.7),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
