"""ToMe on DeiT-B, ImageNet-1k: remove 8 of 196 patch tokens in each block.

python eval.py --config configs/deit_b_tome.py --weights deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_tome.py
python train.py --config configs/deit_b_tome.py:finetune --config.weights=deit_base_patch16_224.safetensors
python train.py --config configs/deit_b_tome.py:selfdistill --config.weights=deit_base_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import ToMe
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_B,
    method="ToMe",
    reducer=ToMe(),
    schedule=8,
    gmacs=13.135,
    published={
        "off_the_shelf": [
            recipes.Result("ToMe", 81.2, gmacs=13.1, source="GTP-ViT, table"),
        ],
    },
    related={
        "selfdistill": [
            recipes.Result("DynamicViT", 81.43, gmacs=11.4),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
