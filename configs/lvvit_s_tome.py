"""ToMe on LV-ViT-S, ImageNet-1k: remove 8 of 196 patch tokens in each block.

python eval.py --config configs/lvvit_s_tome.py --weights lvvit_s-26M-224-83.3.pth.tar
python train.py --config configs/lvvit_s_tome.py
python train.py --config configs/lvvit_s_tome.py:finetune --config.weights=lvvit_s-26M-224-83.3.pth.tar
python train.py --config configs/lvvit_s_tome.py:selfdistill --config.weights=lvvit_s-26M-224-83.3.pth.tar
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import ToMe
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.LVVIT_S,
    method="ToMe",
    reducer=ToMe(),
    schedule=8,
    gmacs=4.772,
    related={
        "selfdistill": [
            recipes.Result("DynamicViT", 83.2, gmacs=5.1),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
