"""EViT on LV-ViT-S, ImageNet-1k: keep 70 % of the patch tokens in blocks 4, 8 and 12.

python eval.py --config configs/lvvit_s_evit.py --weights lvvit_s-26M-224-83.3.pth.tar
python train.py --config configs/lvvit_s_evit.py
python train.py --config configs/lvvit_s_evit.py:finetune --config.weights=lvvit_s-26M-224-83.3.pth.tar
python train.py --config configs/lvvit_s_evit.py:selfdistill --config.weights=lvvit_s-26M-224-83.3.pth.tar
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import EViT
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.LVVIT_S,
    method="EViT",
    reducer=EViT(),
    schedule=[0, 0, 0, 0, 58, 0, 0, 0, 41, 0, 0, 0, 29, 0, 0, 0],
    gmacs=4.712,
    published={
        "finetune": [
            recipes.Result("EViT", 83.0, gmacs=4.7),
        ],
    },
    related={
        "selfdistill": [
            recipes.Result("DynamicViT", 83.0, gmacs=4.6, note="its repository: 83.08"),
        ],
    },
    reduction_warmup=recipes.EVIT_REDUCTION_WARMUP,
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
