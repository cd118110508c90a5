"""GTP-ViT on DeiT-Ti, ImageNet-1k: remove 8 of 196 patch tokens in each block.

python eval.py --config configs/deit_ti_gtp.py --weights deit_tiny_patch16_224.safetensors
python train.py --config configs/deit_ti_gtp.py
python train.py --config configs/deit_ti_gtp.py:finetune --config.weights=deit_tiny_patch16_224.safetensors
python train.py --config configs/deit_ti_gtp.py:selfdistill --config.weights=deit_tiny_patch16_224.safetensors
"""

from pathlib import Path

from ml_collections import ConfigDict

from tcvit_jax import GTP
from tcvit_jax import config as base

recipes = base.load_module(Path(__file__).with_name("_recipes.py"))

ROW = recipes.Row(
    dense=recipes.DEIT_TI,
    method="GTP-ViT",
    reducer=GTP(),
    schedule=8,
    gmacs=0.935,
    related={
        "selfdistill": [
            recipes.Result("dTPS", 72.9, gmacs=0.8),
        ],
    },
)


def get_config(recipe: str = "scratch") -> ConfigDict:
    """Return the configuration of a recipe."""
    return recipes.configure(ROW, recipe)
